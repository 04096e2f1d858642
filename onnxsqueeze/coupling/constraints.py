"""Keep more until every tensor is a box: relations between classes, each enforced by adding original elements.

A constraint sees which classes stay and may only add to them, so enforcing all of them again and again ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats, any_along, fit_any
from onnxsqueeze.coupling.keep_reason import Reason

Classes = npt.NDArray[np.int64]
_SMALLEST_SHARE = 16  # a constant this many times smaller than another does not stand for it


@dataclass
class Kept:
    """Which classes stay, and why: the first reason wins.

    Attributes:
        mask, reasons: by class.
        cost: the weight elements that keeping a class costs; where any class would do, the cheapest are added.
        live: by tensor, which elements are needed if just these classes stay (compact).
        additions: how often something was added.
    """

    mask: Bools
    reasons: npt.NDArray[np.object_]
    cost: Floats
    live: Mapping[str, Bools]
    additions: int = 0

    def add(self, classes: Classes, reason: Reason, detail: str = "") -> None:
        """Make ``classes`` stay."""
        new = classes[~self.mask[classes]]
        if new.size:
            self.mask[new] = True
            self.additions += 1
            entry = np.empty((), dtype=object)
            entry[()] = (reason, detail)
            self.reasons[new] = entry


class Constraint(Protocol):
    """A relation between classes. ``labelled`` translates identifiers into final class numbers, once."""

    def labelled(self, labels: Classes) -> Constraint:
        """Return the same constraint on final class numbers."""

    def enforce(self, kept: Kept) -> None:
        """Add classes until the relation holds."""


@dataclass(frozen=True)
class Box:
    """A tensor with several varying axes stays a box.

    Strict: the kept elements are a product of kept positions per axis. Else the last varying axis may keep different
    positions in each row, as long as each kept row keeps equally many (heads with their own dims).

    Stepwise: rows that are rows of rows elsewhere (queries, keys and values, of several heads each) grow one element at
    a time, so that what they are made of can grow evenly in between.
    """

    ids: Classes
    strict: bool
    stepwise: bool = False

    def labelled(self, labels: Classes) -> Box:
        """Return the same constraint on final class numbers."""
        return Box(labels[self.ids], self.strict, self.stepwise)

    @property
    def row_length(self) -> int:
        """The number of elements along the last varying axis."""
        return next((length for length in reversed(self.ids.shape) if length > 1), 1)

    def enforce(self, kept: Kept) -> None:
        """Add elements until the kept ones form a box."""
        mask = kept.mask[self.ids]
        if mask.all() or not mask.any():
            return
        if self.strict:
            kept.add(self.ids[outer(mask)], Reason.REGULAR)
            return
        last = max(axis for axis, length in enumerate(mask.shape) if length > 1)
        rows = np.broadcast_to(outer(any_along(mask, last, keepdims=True)), mask.shape)
        ids, chosen = np.moveaxis(self.ids, last, -1), any_along(np.moveaxis(rows, last, -1), -1)
        if self.stepwise:
            lengthen_rows(kept, ids, chosen)
        else:
            fill_rows(kept, ids, chosen)


def outer(mask: Bools) -> Bools:
    """Return the smallest product of per-axis position sets that contains ``mask``."""
    result = np.full(mask.shape, True)
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        result = result & any_along(mask, others, keepdims=True)
    return result


def lengthen_rows(kept: Kept, ids: Classes, rows: Bools) -> None:
    """Add one element to each row of ``ids`` (last axis) that ``rows`` chooses and that keeps fewer than the fullest.

    Rather one at a place that another row keeps already, else the cheapest.
    """
    table = ids.reshape(-1, ids.shape[-1])[rows.ravel()]
    mask = kept.mask[table]
    short = mask.sum(axis=1) < mask.sum(axis=1).max(initial=0)
    cost = kept.cost[table] + np.where(any_along(mask, 0), 0.0, 1.0 + kept.cost.max(initial=0.0))
    chosen = np.where(mask, np.inf, cost).argmin(axis=1)
    kept.add(table[np.arange(len(table)), chosen][short], Reason.REGULAR)


def fill_rows(kept: Kept, ids: Classes, rows: Bools, least: int = 0, reason: Reason = Reason.REGULAR) -> None:
    """Make every row of ``ids`` (last axis) that ``rows`` chooses keep as many elements as the fullest, or more."""
    table = ids.reshape(-1, ids.shape[-1])[rows.ravel()]
    mask = kept.mask[table]
    counts = mask.sum(axis=1)
    if not counts.size:
        return
    missing = max(int(counts.max()), least) - counts
    if not missing.any():
        return
    priority = np.where(mask, np.inf, kept.cost[table])
    place = np.argsort(np.argsort(priority, axis=1, kind="stable"), axis=1, kind="stable")
    kept.add(table[place < missing[:, None]], reason)


@dataclass(frozen=True)
class Broadcast:
    """A smaller tensor that broadcasts along some axes of a bigger one: a slot stays in both or in neither."""

    small: Classes
    big: Classes
    axes: tuple[int, ...]

    def labelled(self, labels: Classes) -> Broadcast:
        """Return the same constraint on final class numbers."""
        return Broadcast(labels[self.small], labels[self.big], self.axes)

    def enforce(self, kept: Kept) -> None:
        """Keep a small element if any of its big ones stays, and a place for each kept small one in every kept row."""
        big = kept.mask[self.big]
        kept.add(self.small[fit_any(any_along(big, self.axes, keepdims=True), self.small.shape)], Reason.BROADCAST)
        others = tuple(axis for axis in range(big.ndim) if axis not in self.axes)
        rows = any_along(big, others, keepdims=True)
        kept.add(self.big[rows & np.broadcast_to(kept.mask[self.small], self.big.shape)], Reason.BROADCAST)


@dataclass(frozen=True)
class Rows:
    """An element of a small tensor stands for a row of a bigger one (the scores of a head for its dims).

    It stays exactly if something of its row does, as long as anything of ``output`` stays, which is computed from both.
    The small one has length 1 along ``axes``, which make up the rows.
    """

    small: Classes
    big: Classes
    axes: tuple[int, ...]
    output: Classes

    def labelled(self, labels: Classes) -> Rows:
        """Return the same constraint on final class numbers."""
        return Rows(labels[self.small], labels[self.big], self.axes, labels[self.output])

    def enforce(self, kept: Kept) -> None:
        """Keep a small element if its row stays, and one element of the row of each small one that stays."""
        if not kept.mask[self.output].any():
            return
        rows = any_along(kept.mask[self.big], self.axes, keepdims=True)
        kept.add(self.small[fit_any(rows, self.small.shape)], Reason.COUPLED)
        empty = np.broadcast_to(kept.mask[self.small], rows.shape) & ~rows
        if empty.any():
            self._fill(kept, empty)

    def _fill(self, kept: Kept, empty: Bools) -> None:
        """Rather keep a place that another row keeps already, else the cheapest."""
        last = tuple(range(-len(self.axes), 0))
        table = np.moveaxis(self.big, self.axes, last).reshape(empty.size, -1)
        shared = any_along(kept.mask[table], 0)
        chosen = table[np.moveaxis(empty, self.axes, last).ravel()]
        cost = kept.cost[chosen] + np.where(shared, 0.0, 1.0 + kept.cost.max(initial=0.0))
        kept.add(chosen[np.arange(len(chosen)), cost.argmin(axis=1)], Reason.NOT_EMPTY)


@dataclass(frozen=True)
class Copies:
    """Rows that repeat a smaller tensor's (keys repeated for each query of a group) may leave one by one.

    ``source`` has the shape of ``copies`` and says of which element each is a copy; ``axes`` make up the rows. A row
    that stays is a copy of all that its source keeps.
    """

    source: Classes
    copies: Classes
    axes: tuple[int, ...]

    def labelled(self, labels: Classes) -> Copies:
        """Return the same constraint on final class numbers."""
        return Copies(labels[self.source], labels[self.copies], self.axes)

    def enforce(self, kept: Kept) -> None:
        """Keep what a kept copy is a copy of, and the whole of each row of which something stays."""
        mask = kept.mask[self.copies]
        kept.add(self.source[mask], Reason.BROADCAST)
        rows = any_along(mask, self.axes, keepdims=True)
        kept.add(self.copies[rows & kept.mask[self.source]], Reason.BROADCAST)


@dataclass(frozen=True)
class Groups:
    """A grouped linear map, ids of shape (groups, per group): equal counts per kept group, on both of its sides."""

    inputs: Classes
    outputs: Classes

    def labelled(self, labels: Classes) -> Groups:
        """Return the same constraint on final class numbers."""
        return Groups(labels[self.inputs], labels[self.outputs])

    def enforce(self, kept: Kept) -> None:
        """Add elements to the groups of which anything stays."""
        rows = any_along(kept.mask[self.inputs], 1) | any_along(kept.mask[self.outputs], 1)
        fill_rows(kept, self.inputs, rows, least=1)
        fill_rows(kept, self.outputs, rows, least=1)


@dataclass(frozen=True)
class NotEmpty:
    """If anything of ``outputs`` stays, something of ``inputs``, from which it is computed, must stay as well."""

    inputs: Classes
    outputs: Classes

    def labelled(self, labels: Classes) -> NotEmpty:
        """Return the same constraint on final class numbers."""
        return NotEmpty(labels[self.inputs].ravel(), labels[self.outputs].ravel())

    def enforce(self, kept: Kept) -> None:
        """Keep one element of the inputs."""
        if kept.mask[self.outputs].any() and not kept.mask[self.inputs].any():
            best = self.inputs.ravel()[np.argmin(kept.cost[self.inputs.ravel()])]
            kept.add(np.array([best]), Reason.NOT_EMPTY)


@dataclass(frozen=True)
class Representative:
    """One kept constant stands for all the removed ones that a zero-padded convolution reads; per group.

    A zero-padded border sees fewer taps, so that no bias can stand for a constant; a multiple of another constant can.
    ids and constants have shape (groups, per group); a constant of 0 marks elements which need none, and so do elements
    of ``tensor`` that no output which stays reads.
    """

    tensor: str
    ids: Classes
    constants: Floats

    def labelled(self, labels: Classes) -> Representative:
        """Return the same constraint on final class numbers."""
        return Representative(self.tensor, labels[self.ids], self.constants)

    def enforce(self, kept: Kept) -> None:
        """Keep the cheapest large enough constant of each group that lost some and kept none to stand in."""
        if self.tensor not in kept.live:
            return
        mask = kept.mask[self.ids]
        live = np.broadcast_to(kept.live[self.tensor].ravel(), (mask.size,)).reshape(mask.shape)
        removed = ~mask & live & (self.constants != 0)
        standing = choose_representatives(mask, self.constants)
        for group in np.nonzero(removed.any(axis=1) & (standing < 0))[0]:
            sizes = np.where(removed[group], np.abs(self.constants[group]), 0.0)
            cost = np.where(sizes * _SMALLEST_SHARE >= sizes.max(), kept.cost[self.ids[group]], np.inf)
            best = np.lexsort((-sizes, cost))[0]
            kept.add(self.ids[group, best : best + 1], Reason.REPRESENTATIVE)


def choose_representatives(mask: Bools, constants: Floats) -> npt.NDArray[np.int64]:
    """Return for each group the kept element to stand for the removed constants, -1 where none is large enough.

    A tiny one would need huge weights, so that it must be at least 1/16 of the largest removed constant.
    """
    sizes = np.abs(constants)
    largest = np.where(mask, 0.0, sizes).max(axis=1, initial=0.0)
    candidates = np.where(mask, sizes, 0.0)
    best = candidates.argmax(axis=1)
    value = candidates[np.arange(len(best)), best]
    return np.where((value > 0) & (value * _SMALLEST_SHARE >= largest), best, -1)


@dataclass(frozen=True)
class RoundUp:
    """A tensor's kept channel count is raised to a target, in each group on its own; ids of shape (groups, per group).

    Attributes:
        target: from (kept, original) counts the count to keep, never above the original.
    """

    ids: Classes
    target: Callable[[int, int], int]

    def labelled(self, labels: Classes) -> RoundUp:
        """Return the same constraint on final class numbers."""
        return RoundUp(labels[self.ids], self.target)

    def enforce(self, kept: Kept) -> None:
        """Add elements of the tensor's own."""
        counts = kept.mask[self.ids].sum(axis=1)
        most = int(counts.max(initial=0))
        if 0 < most < self.ids.shape[1]:
            fill_rows(kept, self.ids, counts > 0, self.target(most, self.ids.shape[1]), Reason.ROUNDED)
