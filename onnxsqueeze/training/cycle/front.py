"""The front of size against metric: what each cycle gave, and which of them no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxsqueeze.training.cycle.state import Record, State

MINIMIZED = "minimized.onnx"


@dataclass(frozen=True)
class Point:
    """One cycle's network.

    Attributes:
        cycle: its number; 0 is the network that was given, minimized.
        elements: its weight elements. ratio: the dense network's by these.
        metric: what the user's evaluation says. drop: how much less that is than the dense network's.
        onnx_path: the file to deploy.
        on_front: whether no other network is at least as small and as good, and better in one of them.
        within: whether the drop is no larger than the run allows.
    """

    cycle: int
    elements: int
    ratio: float
    metric: float
    drop: float
    onnx_path: Path
    on_front: bool
    within: bool


@dataclass(frozen=True)
class Best:
    """The smallest network within the allowed drop, the better one of equals; without an allowed drop the smallest.

    Attributes:
        onnx_path: the file to deploy. ratio: the dense network's weight elements by its own.
        metric: what the user's evaluation says of it. cycle: which one made it; 0 is the network that was given.
        front: all cycles in their order.
        missed: a line on the ratio that was wanted and not reached; "" if it was, or none was wanted.
    """

    onnx_path: Path
    ratio: float
    metric: float
    cycle: int
    front: tuple[Point, ...]
    missed: str = ""


def points(state: State, folder: Path) -> tuple[Point, ...]:
    """Return what each finished cycle gave."""
    return tuple(
        Point(
            cycle=record.cycle,
            elements=record.elements,
            ratio=record.ratio,
            metric=record.metric,
            drop=state.drop(record),
            onnx_path=folder / f"cycle-{record.cycle:02d}" / MINIMIZED,
            on_front=not any(_beats(other, record) for other in state.records),
            within=state.within(record),
        )
        for record in state.records
    )


def best(found: Sequence[Point]) -> Best:
    """Return the best of all points; the given network is within any drop."""
    chosen = max((point for point in found if point.within), key=lambda point: (-point.elements, point.metric))
    return Best(chosen.onnx_path, chosen.ratio, chosen.metric, chosen.cycle, tuple(found))


def to_dict(found: Sequence[Point], folder: Path) -> dict[str, Any]:
    """Return the front as plain values for JSON, paths relative to the workdir."""
    plain = [{**asdict(point), "onnx_path": point.onnx_path.relative_to(folder).as_posix()} for point in found]
    return {"best": best(found).cycle, "points": plain}


def _beats(one: Record, other: Record) -> bool:
    no_worse = one.elements <= other.elements and one.metric >= other.metric
    return no_worse and (one.elements < other.elements or one.metric > other.metric)
