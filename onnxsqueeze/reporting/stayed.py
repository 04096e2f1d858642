"""What stayed and why, counted by reason, with the nodes that bring each reason about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.coupling.keep_reason import Reason, Why

_NAMED = 3  # nodes that one line of text names


class Stayed:
    """Counts by reason, and by node within a reason."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._counts: Counter[str] = Counter()
        self._nodes: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, why: Why | None, count: int, maker: str = "") -> None:
        """Count ``count`` elements; ``maker`` is the node that makes them, which a reason without a node names."""
        if count > 0:
            reason = words(why)
            self._counts[reason] += count
            self._nodes[reason][(why.node if why is not None else "") or maker] += count

    def add_all(self, reasons: np.ndarray[Any, Any], chosen: Bools, maker: str, repeat: int = 1) -> None:
        """Count the chosen elements of a tensor, each ``repeat`` times; ``reasons`` broadcasts against ``chosen``."""
        for why, count in Counter(np.broadcast_to(reasons, chosen.shape)[chosen]).items():
            self.add(why, count * repeat, maker)

    def counts(self) -> dict[str, int]:
        """Return how many stayed by reason, the most frequent first."""
        return dict(self._counts.most_common())

    def nodes(self) -> dict[str, tuple[str, ...]]:
        """Return by reason the nodes, those that hold most first."""
        return {
            reason: tuple(node for node, _ in self._nodes[reason].most_common() if node) for reason in self.counts()
        }


def words(why: Why | None) -> str:
    """Return what a report says of a reason and its detail; None stands for what is coupled with other channels."""
    if why is None:
        return Reason.COUPLED.words
    if why.reason in (Reason.INTERNAL_ERROR, Reason.NOT_RUNNABLE):
        return f"{why.reason.words} {why.detail}"
    return f"{why.reason.words}: {why.detail}" if why.detail and why.reason is not Reason.NEEDED else why.reason.words


def named(nodes: tuple[str, ...]) -> str:
    """Return some nodes in words: a few by name, and how many more there are."""
    more = len(nodes) - _NAMED
    return ", ".join(nodes[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def joined(parts: list[tuple[Mapping[str, int], Mapping[str, tuple[str, ...]]]]) -> list[tuple[str, int, int, str]]:
    """Sum up the counts of several layers: reason, how many layers, how many channels, and the nodes in words."""
    counts: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    nodes: dict[str, dict[str, None]] = defaultdict(dict)
    for stayed, at in parts:
        for reason, count in stayed.items():
            counts[reason] += count
            layers[reason] += 1
            nodes[reason].update(dict.fromkeys(at.get(reason, ())))
    return [(reason, layers[reason], count, named(tuple(nodes[reason]))) for reason, count in counts.most_common()]
