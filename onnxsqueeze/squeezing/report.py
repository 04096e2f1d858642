"""What a squeeze came to: points on the front of size against quality, and what each layer lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxsqueeze.model.model import Model

NOT_THE_SAME = "not the same function: this is pruning; the step after it was exact"


@dataclass(frozen=True)
class Taken:
    """What one layer lost.

    Attributes:
        name: the tensor whose channels these are. kind: of the units. before, after: how many there are; of dims for
            each head.
    """

    name: str
    kind: str
    before: int
    after: int


def joined(before: Sequence[Taken], now: Sequence[Taken]) -> tuple[Taken, ...]:
    """Return what each layer lost in two squeezes, one after the other."""
    if not before:
        return tuple(now)
    left = {(each.name, each.kind): each.after for each in now}
    known = {(each.name, each.kind) for each in before}
    both = [Taken(each.name, each.kind, each.before, left.get((each.name, each.kind), each.after)) for each in before]
    return (*both, *(each for each in now if (each.name, each.kind) not in known))


@dataclass(frozen=True)
class Point:
    """One network that was made.

    Attributes:
        weights, macs, bytes: of the minimized network. ratio, macs_ratio: how many times fewer than in the original.
        metric: on the samples that were held out, 0 to 1. drop: below the original's, in percentage points.
        deviation: of all outputs together, relative to how much they vary. latency: as a share of the original's time,
            None where it was not measured. trained: for how many seconds it was trained after the repair.
        taken: what each layer lost. model: the network.
    """

    weights: int
    macs: int
    bytes: int
    ratio: float
    macs_ratio: float
    metric: float
    drop: float
    deviation: float
    latency: float | None
    trained: float
    taken: tuple[Taken, ...]
    model: Model = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the network as plain data."""
        found = {name: value for name, value in vars(self).items() if name not in ("model", "taken")}
        return {**found, "taken": [asdict(each) for each in self.taken]}


@dataclass(frozen=True)
class SqueezeReport:
    """What a squeeze came to.

    Attributes:
        goal: as asked. reached: whether the chosen point meets it. why: if not, why.
        interrupted: whether it was stopped before its end.
        metric: how the outputs are compared. dense: the original's own value, 1 where it is compared with itself.
        calibration, held_out: how many samples. compared: by how many of the former sizes were, where those are fewer
            than usual because the model takes long; else 0. weights, macs, bytes: of the original.
        chosen: the point that is the answer. points: all that were made, the largest first.
        seconds: of each step.
    """

    goal: str
    reached: bool
    why: str
    interrupted: bool
    metric: str
    dense: float
    calibration: int
    held_out: int
    compared: int
    weights: int
    macs: int
    bytes: int
    chosen: Point
    points: tuple[Point, ...]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        found = {name: value for name, value in vars(self).items() if name not in ("chosen", "points")}
        points: Sequence[Point] = self.points
        return {
            **found,
            "note": NOT_THE_SAME,
            "chosen": self.chosen.to_dict(),
            "points": [point.to_dict() for point in points],
        }
