"""Where the heads of attention's operands are, and which of their elements stay or go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.constraint import NO_CLASSES, Classes, Constraint, Kept, Row
from onnxsqueeze.coupling.constraints import filled
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Refusal


@dataclass(frozen=True)
class Heads:
    """The heads of one operand, in a tensor [batch, heads, positions, size], [batch, positions, channels] or
    [positions, channels], the positions of all of a batch one after another.

    Attributes:
        name: the tensor. position: the input that it is.
        heads, size: how many heads there are, and how many elements each has at one position.
        channels: the length of the last axis, where the heads stand one after another; 0 where they have an own axis.
        start: the channel at which they start, since queries, keys and values may be packed in one tensor.
        rank: that of the tensor.
    """

    name: str
    position: int
    heads: int
    size: int
    channels: int = 0
    start: int = 0
    rank: int = 3

    def table(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a compact array, the same for all of the batch and all positions, as [heads, size]."""
        if not self.channels:
            return np.broadcast_to(array[0, :, 0, :], (self.heads, self.size))
        row = np.broadcast_to(array.reshape(-1), (self.channels,))
        return row[self.start : self.start + self.heads * self.size].reshape(self.heads, self.size)

    def placed(self, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array [heads, size] in the tensor's own layout, zeros in what other operands have of it."""
        if not self.channels:
            return table[None, :, None, :]
        row = np.zeros(self.channels, table.dtype)
        row[self.start : self.start + table.size] = table.ravel()
        return row.reshape((1,) * (self.rank - 1) + (-1,))

    def bounds(self, context: Context) -> Interval:
        """Return what is known of each element, whatever the position, as [heads, size]."""
        interval = collapse(context.interval(self.name), self._others)
        return Interval(self.table(interval.lower), self.table(interval.upper))

    def classes(self, context: Context) -> Classes:
        """Return the class of each element as [heads, size]; those of one element at all positions become one."""
        ids = context.elements.merge(context.ids(self.name), self._others)
        if context.is_activation(self.name):
            context.elements.ids[self.name] = ids
        return self.table(ids)

    @property
    def _others(self) -> tuple[int, ...]:
        return tuple(range(self.rank - 1)) if self.channels else (0, 2)


def heads_of(context: Context, name: str, position: int, heads: int | None) -> Heads | None:
    """Return the heads of a tensor of rank 4, or of a lower one if their number is given.

    None where a size is not known.
    """
    shape = context.shapes.get(name, ())
    if len(shape) == 4 and isinstance(shape[1], int) and isinstance(shape[3], int):
        return Heads(name, position, shape[1], shape[3], rank=4)
    width = shape[-1] if len(shape) in (2, 3) else None
    if isinstance(width, int) and heads and width % heads == 0:
        return Heads(name, position, heads, width // heads, width, rank=len(shape))
    return None


def attention_shapes(
    query: Shape | None, key: Shape | None, value: Shape | None, past: Shape | None, counts: tuple[int, int]
) -> list[Shape | None]:
    """Return the shapes of the result, of the keys and values up to now, and of the scores.

    Args:
        query, key, value: shapes of rank 3 or 4, or None. past: that of the cached keys, or None.
        counts: how many heads queries and keys have, where their rank is 3.
    """
    if query is None or key is None or value is None or not {len(query), len(key), len(value)} <= {3, 4}:
        return [None] * 4
    heads = query[1] if len(query) == 4 else counts[0]
    groups = key[1] if len(key) == 4 else counts[1]
    if not heads or not groups:
        return [None] * 4
    sizes = [shape[3] if len(shape) == 4 else shape[2] // groups for shape in (key, value)]
    length, total = query[-2], key[-2]
    if past is not None:
        total = past[-2] + total
    result = (query[0], length, heads * sizes[1]) if len(query) == 3 else (query[0], heads, length, sizes[1])
    return [result, *((query[0], groups, total, size) for size in sizes), (query[0], heads, length, total)]


def caches_of(node: Node, context: Context, keys: int) -> tuple[Heads, Heads] | None | Refusal:
    """Return the cached keys and values, two inputs of which ``keys`` is the first; None without them."""
    names = [node.input(position) for position in (keys, keys + 1)]
    if not any(names):
        return None
    found = [heads_of(context, name, position, None) for position, name in enumerate(names, start=keys)]
    if found[0] is None or found[1] is None:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return found[0], found[1]


@dataclass(frozen=True)
class HeadSizes(Constraint):
    """The heads that stay have equal sizes; all that belongs to one head, or to one element of it, stays together.

    The heads of the queries come in groups that share their keys and values; each group that stays has equally many.

    Attributes:
        queries: [groups, heads per group, size]. keys: [groups, size].
        outputs: [groups, heads per group, value size]. values: [groups, value size].
        others: arrays [groups, heads per group] of what has one entry for each head, such as a bias on the scores; a
            head that stays needs its own.
        multiple: what the runtime wants sizes to be a multiple of.
        alike: whether it wants one size for keys and values.
        operator: its name, for reports.
    """

    queries: Classes
    keys: Classes
    outputs: Classes
    values: Classes
    others: tuple[Classes, ...]
    multiple: int
    alike: bool
    operator: str

    def enforce(self, kept: Kept) -> None:
        """Add whole heads until the groups are equal, then elements of heads until their sizes are."""
        heads = any_along(kept.mask[self.queries], 2) | any_along(kept.mask[self.outputs], 2)
        for other in self.others:
            heads = heads | kept.mask[other]
        groups = any_along(heads, 1) | any_along(kept.mask[self.keys], 1) | any_along(kept.mask[self.values], 1)
        if not groups.any():
            return
        cost = kept.cost[self.queries].sum(axis=2) + kept.cost[self.outputs].sum(axis=2)
        heads = filled(heads, cost, 1, groups)
        keys = kept.mask[self.keys] | any_along(kept.mask[self.queries], 1)
        values = kept.mask[self.values] | any_along(kept.mask[self.outputs], 1)
        self._add(kept, heads, keys, values, Reason.COUPLED)
        counts = [int(mask.sum(axis=1).max()) for mask in (keys, values)]
        least = [self._allowed(max(counts) if self.alike else count) for count in counts]
        keys = filled(keys, kept.cost[self.keys], min(least[0], keys.shape[1]), groups)
        values = filled(values, kept.cost[self.values], min(least[1], values.shape[1]), groups)
        self._add(kept, heads, keys, values, Reason.REGULAR)

    def _allowed(self, count: int) -> int:
        return -(-max(count, 1) // self.multiple) * self.multiple

    def _add(self, kept: Kept, heads: Bools, keys: Bools, values: Bools, reason: Reason) -> None:
        """Keep elements of keys and values, and the same of each head that reads them."""
        for shared, own, mask in ((self.keys, self.queries, keys), (self.values, self.outputs, values)):
            kept.add(shared[mask], reason, self.operator)
            kept.add(own[heads[:, :, None] & mask[:, None, :]], reason, self.operator)

    def coupled(self) -> Iterator[tuple[Classes, Classes]]:
        """An element of the shared keys with those of all queries that meet it; outputs and values likewise."""
        yield self.queries, self.keys[:, None, :]
        yield self.outputs, self.values[:, None, :]

    def rows(self) -> Iterator[list[Row]]:
        """A head leaves with its queries and outputs; where heads share keys, all that share them leave."""
        for group in range(self.queries.shape[0]):
            labels = np.concatenate([NO_CLASSES, *(other[group].ravel() for other in self.others)])
            own = [Row(row, labels) for row in (*self.queries[group], *self.outputs[group])]
            yield [*own, Row(self.keys[group], labels), Row(self.values[group], labels)]

    def tables(self) -> Iterator[Classes]:
        """Each group keeps equally many keys, and equally many values."""
        yield from (self.keys, self.values)

    def serving(self) -> Iterator[tuple[Classes, Classes]]:
        """Keys serve the queries of their group, values its outputs, element by element."""
        for own, shared in ((self.queries, self.keys), (self.outputs, self.values)):
            yield own.transpose(0, 2, 1).reshape(shared.size, -1), shared.ravel()

    def side_by_side(self) -> Classes:
        """The heads."""
        return self.queries
