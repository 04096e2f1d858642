"""Keep more until every tensor is a box: relations between classes, each enforced by adding original elements.

A constraint sees which classes stay and may only add to them, so enforcing all of them again and again ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats, any_along, fit_any
from onnxsqueeze.coupling.constraint import NO_CLASSES, Classes, Constraint, Kept, Phase, Row
from onnxsqueeze.coupling.keep_reason import Reason

_Entry = TypeVar("_Entry", bound=np.generic)
_SMALLEST_SHARE = 16  # a constant this many times smaller than another does not stand for it


@dataclass(frozen=True)
class Box(Constraint):
    """A tensor with several varying axes stays a box.

    Strict: the kept elements are a product of kept positions per axis. Else the last varying axis may keep different
    positions in each row, as long as each kept row keeps equally many (heads with their own dims).

    Stepwise: rows that are rows of rows elsewhere (queries, keys and values, of several heads each) grow one element at
    a time, so that what they are made of can grow evenly in between.
    """

    ids: Classes
    strict: bool
    stepwise: bool = False

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
        last = self._last
        rows = np.broadcast_to(outer(any_along(mask, last, keepdims=True)), mask.shape)
        ids, chosen = np.moveaxis(self.ids, last, -1), any_along(np.moveaxis(rows, last, -1), -1)
        if self.stepwise:
            lengthen_rows(kept, ids, chosen)
        else:
            fill_rows(kept, ids, chosen)

    def coupled(self) -> Iterator[tuple[Classes, Classes]]:
        """A strict one loses whole positions of its last axis."""
        if self.strict:
            rows = self.ids.reshape(-1, self.ids.shape[-1])
            yield rows, rows[:1]

    def tables(self) -> Iterator[Classes]:
        """Its rows, unless it is strict."""
        if not self.strict:
            ids = np.moveaxis(self.ids, self._last, -1)
            yield ids.reshape(-1, ids.shape[-1])

    @property
    def _last(self) -> int:
        """The last varying axis."""
        return max(axis for axis, length in enumerate(self.ids.shape) if length > 1)


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
    kept.add(table[filled(mask, kept.cost[table], least) & ~mask], reason)


def filled(mask: Bools, cost: Floats, least: int = 0, rows: Bools | None = None) -> Bools:
    """Add the cheapest entries to rows of a table until each has as many as the fullest of them, or ``least``.

    Args:
        mask, cost: [rows, entries].
        rows: which ones are filled, and looked at; by default all.
    """
    chosen = np.full(len(mask), True) if rows is None else rows
    counts = mask.sum(axis=1)
    missing = np.where(chosen, max(int(counts.max(initial=0, where=chosen)), least) - counts, 0)
    if not missing.any():
        return mask
    priority = np.where(mask, np.inf, cost)
    place = np.argsort(np.argsort(priority, axis=1, kind="stable"), axis=1, kind="stable")
    return mask | (place < missing[:, None])


def rows_of(big: npt.NDArray[_Entry], axes: tuple[int, ...]) -> npt.NDArray[_Entry]:
    """Return an array as a table [rows, elements] of its rows, which lie along ``axes``."""
    lead = tuple(length for axis, length in enumerate(big.shape) if axis not in axes)
    return np.moveaxis(big, axes, range(-len(axes), 0)).reshape(prod(lead), -1)


def labels_of(small: Classes, big: Classes, axes: tuple[int, ...]) -> Classes:
    """Return for each row of a big array the element that stands for it of a small one, of length 1 along ``axes``."""
    lead = tuple(length for axis, length in enumerate(big.shape) if axis not in axes)
    return np.broadcast_to(small.squeeze(axes), lead).ravel()


def served_rows(small: Classes, big: Classes, axes: tuple[int, ...]) -> Iterator[tuple[Classes, Classes]]:
    """Return what elements of a small array serve: rows of a big one. A single number serves no row of its own."""
    if small.size > 1 and all(small.shape[axis] == 1 for axis in axes):
        yield rows_of(big, axes), labels_of(small, big, axes)


@dataclass(frozen=True)
class Broadcast(Constraint):
    """A smaller tensor that broadcasts along some axes of a bigger one: a slot stays in both or in neither."""

    small: Classes
    big: Classes
    axes: tuple[int, ...]
    phase: ClassVar[Phase] = Phase.FORCED

    def enforce(self, kept: Kept) -> None:
        """Keep a small element if any of its big ones stays, and a place for each kept small one in every kept row."""
        big = kept.mask[self.big]
        kept.add(self.small[fit_any(any_along(big, self.axes, keepdims=True), self.small.shape)], Reason.BROADCAST)
        others = tuple(axis for axis in range(big.ndim) if axis not in self.axes)
        rows = any_along(big, others, keepdims=True)
        kept.add(self.big[rows & np.broadcast_to(kept.mask[self.small], self.big.shape)], Reason.BROADCAST)

    def coupled(self) -> Iterator[tuple[Classes, Classes]]:
        """A slot in both; a single number stands for no slot."""
        if self.small.size > 1:
            yield self.big, self.small

    def serving(self) -> Iterator[tuple[Classes, Classes]]:
        """A small element serves the big ones that it is combined with."""
        return served_rows(self.small, self.big, self.axes)


@dataclass(frozen=True)
class Rows(Constraint):
    """An element of a small tensor stands for a row of a bigger one (the scores of a head for its dims).

    It stays exactly if something of its row does, as long as anything of ``output`` stays, which is computed from both.
    The small one has length 1 along ``axes``, which make up the rows.
    """

    small: Classes
    big: Classes
    axes: tuple[int, ...]
    output: Classes

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
        """Rather keep a place that another row keeps already, then one that an output which stays needs, then any."""
        table = rows_of(self.big, self.axes)
        shared = any_along(kept.mask[table], 0)
        computed = any_along(rows_of(fit_any(kept.mask[self.output], self.big.shape), self.axes), 0)
        chosen = table[empty.ravel()]
        preference = np.where(shared, 0.0, np.where(computed, 1.0, 2.0))
        cost = kept.cost[chosen] + preference * (1.0 + kept.cost.max(initial=0.0))
        kept.add(chosen[np.arange(len(chosen)), cost.argmin(axis=1)], Reason.NOT_EMPTY)

    def rows(self) -> Iterator[list[Row]]:
        """Each row on its own, with what stands for it."""
        labels = labels_of(self.small, self.big, self.axes)
        for place, row in enumerate(rows_of(self.big, self.axes)):
            yield [Row(row, labels[place : place + 1])]

    def serving(self) -> Iterator[tuple[Classes, Classes]]:
        """A small element serves its row."""
        return served_rows(self.small, self.big, self.axes)

    def side_by_side(self) -> Classes:
        """The rows."""
        return self.big


@dataclass(frozen=True)
class Copies(Constraint):
    """Rows that repeat a smaller tensor's (keys repeated for each query of a group) may leave one by one.

    ``source`` has the shape of ``copies`` and says of which element each is a copy; ``axes`` make up the rows. A row
    that stays is a copy of all that its source keeps.
    """

    source: Classes
    copies: Classes
    axes: tuple[int, ...]
    phase: ClassVar[Phase] = Phase.FORCED

    def enforce(self, kept: Kept) -> None:
        """Keep what a kept copy is a copy of, and the whole of each row of which something stays."""
        mask = kept.mask[self.copies]
        kept.add(self.source[mask], Reason.BROADCAST)
        rows = any_along(mask, self.axes, keepdims=True)
        kept.add(self.copies[rows & kept.mask[self.source]], Reason.BROADCAST)

    def coupled(self) -> Iterator[tuple[Classes, Classes]]:
        """A copy and what it is a copy of."""
        yield self.copies, self.source


@dataclass(frozen=True)
class Groups(Constraint):
    """A grouped linear map, ids of shape (groups, per group): equal counts per kept group, on both of its sides.

    Attributes:
        spares: whether groups may go of which one side stays and the other does not: from how many these are, how many
            groups that side keeps, and whether it is that of the outputs. Without it they stay.
    """

    inputs: Classes
    outputs: Classes
    spares: Callable[[int, int, bool], bool] | None = None

    def enforce(self, kept: Kept) -> None:
        """Add elements to the groups of which anything stays, but for those that are spared; never are all."""
        read, computed = (any_along(kept.mask[side], 1) for side in (self.inputs, self.outputs))
        rows = read & computed
        for side, other in ((read, computed), (computed, read)):
            idle = side & ~other
            if not (rows.any() and idle.any() and self._spared(idle, side, side is computed)):
                rows = rows | idle
        fill_rows(kept, self.inputs, rows, least=1)
        fill_rows(kept, self.outputs, rows, least=1)

    def _spared(self, idle: Bools, side: Bools, outputs: bool) -> bool:
        return self.spares is not None and self.spares(int(idle.sum()), int(side.sum()), outputs)

    def rows(self) -> Iterator[list[Row]]:
        """Each group with both of its sides, where there are several groups of several inputs."""
        if min(self.inputs.shape) > 1:
            for read, computed in zip(self.inputs, self.outputs, strict=True):
                yield [Row(read, NO_CLASSES), Row(computed, NO_CLASSES)]

    def tables(self) -> Iterator[Classes]:
        """The groups, on each side."""
        yield from (self.inputs, self.outputs)

    def side_by_side(self) -> Classes:
        """The groups."""
        return self.inputs


@dataclass(frozen=True)
class NotEmpty(Constraint):
    """If anything of ``outputs`` stays, something of ``inputs``, from which it is computed, must stay as well."""

    inputs: Classes
    outputs: Classes
    phase: ClassVar[Phase] = Phase.LAST
    keeps_last: ClassVar[bool] = True

    def enforce(self, kept: Kept) -> None:
        """Keep one element of the inputs."""
        if kept.mask[self.outputs].any() and not kept.mask[self.inputs].any():
            best = self.inputs.ravel()[np.argmin(kept.cost[self.inputs.ravel()])]
            kept.add(np.array([best]), Reason.NOT_EMPTY)


@dataclass(frozen=True)
class Representative(Constraint):
    """One kept constant stands for all the removed ones that a zero-padded convolution reads; per group.

    A zero-padded border sees fewer taps, so that no bias can stand for a constant; a multiple of another constant can.
    ids and constants have shape (groups, per group); a constant of 0 marks elements which need none, and so do elements
    of ``tensor`` that no output which stays reads.
    """

    tensor: str
    ids: Classes
    constants: Floats
    by_value: ClassVar[bool] = True

    def enforce(self, kept: Kept) -> None:
        """Keep the cheapest large enough constant of each group that lost some and kept none to stand in."""
        removed = kept.lost(self.tensor, self.ids) & (self.constants != 0)
        standing = choose_representatives(kept.mask[self.ids], self.constants)
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
class RoundUp(Constraint):
    """A tensor's kept channel count is raised to a target, in each group on its own; ids of shape (groups, per group).

    Attributes:
        target: from (kept, original) counts the count to keep, never above the original.
    """

    ids: Classes
    target: Callable[[int, int], int]

    def enforce(self, kept: Kept) -> None:
        """Add elements of the tensor's own."""
        counts = kept.mask[self.ids].sum(axis=1)
        most = int(counts.max(initial=0))
        if 0 < most < self.ids.shape[1]:
            fill_rows(kept, self.ids, counts > 0, self.target(most, self.ids.shape[1]), Reason.ROUNDED)
