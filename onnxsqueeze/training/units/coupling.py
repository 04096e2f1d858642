"""Which classes of channels leave together, from the relations that the analysis found between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.classes import connected
from onnxsqueeze.coupling.constraints import Box, Broadcast, Constraint, Copies, Groups, Representative, Rows
from onnxsqueeze.operators.attention.heads import HeadSizes
from onnxsqueeze.operators.attention.packed_attention import Products
from onnxsqueeze.operators.attention.rotary_embedding import SameInEachHead
from onnxsqueeze.operators.normalization.representatives import NormRepresentatives
from onnxsqueeze.operators.recurrent.lstm_gru_rnn import Recurrence

Classes = npt.NDArray[np.int64]
_BY_VALUE = (Representative, NormRepresentatives, Recurrence, Products)
"""Relations that depend on what the weights are, which is about to change; zeros need none of them."""


def constraints_of(analysis: Analysis) -> list[Constraint]:
    """Return all relations that hold whatever the weights are, on final class numbers."""
    elements = analysis.context.elements
    found: dict[tuple[tuple[int, ...], bool, bytes], Constraint] = {}
    for name in elements.ids:
        ids = analysis.classes_of(name).squeeze()
        if ids.ndim > 1 and name not in elements.loose:
            strict = name in elements.strict
            found[ids.shape, strict, ids.tobytes()] = Box(ids, strict)
    others = [c.labelled(analysis.labels) for c in elements.constraints if not isinstance(c, _BY_VALUE)]
    return [*found.values(), *others]


def coupled(constraints: Iterable[Constraint]) -> Iterator[tuple[Classes, Classes]]:
    """Yield pairs of arrays of classes that can only leave together."""
    for constraint in constraints:
        if isinstance(constraint, Box) and constraint.strict:
            rows = constraint.ids.reshape(-1, constraint.ids.shape[-1])
            yield rows, rows[:1]
        elif isinstance(constraint, Broadcast) and constraint.small.size > 1:
            yield constraint.big, constraint.small
        elif isinstance(constraint, HeadSizes):
            yield constraint.queries, constraint.keys[:, None, :]
            yield constraint.outputs, constraint.values[:, None, :]
        elif isinstance(constraint, SameInEachHead):
            yield constraint.heads, constraint.heads[:1]
            for column in constraint.columns:
                yield constraint.heads[0][constraint.pairs], column[:, None]
            yield constraint.heads[:, constraint.pairs[:, 0]], constraint.heads[:, constraint.pairs[:, 1]]
        elif isinstance(constraint, Copies):
            yield constraint.copies, constraint.source


@dataclass(frozen=True)
class Row:
    """The classes of one head in one tensor, and those that stand for the head as a whole, such as its scores."""

    classes: Classes
    labels: Classes


def rows_of(constraints: Iterable[Constraint]) -> Iterator[list[Row]]:
    """Yield for each relation between heads and their elements the rows that it ties together, head by head."""
    for constraint in constraints:
        if isinstance(constraint, Rows):
            yield from ([row] for row in _table_rows(constraint))
        elif isinstance(constraint, HeadSizes):
            yield from _attention_rows(constraint)
        elif isinstance(constraint, Groups):
            nothing = np.zeros(0, np.int64)
            for inner, outer in zip(constraint.inputs, constraint.outputs, strict=True):
                if constraint.inputs.shape[0] > 1 and constraint.inputs.shape[1] > 1:
                    yield [Row(inner, nothing), Row(outer, nothing)]


def _table_rows(constraint: Rows) -> Iterator[Row]:
    big = np.moveaxis(constraint.big, constraint.axes, range(-len(constraint.axes), 0))
    lead = big.shape[: big.ndim - len(constraint.axes)]
    small = np.moveaxis(constraint.small, constraint.axes, range(-len(constraint.axes), 0))
    labels = np.broadcast_to(small.reshape(small.shape[: len(lead)]), lead).ravel()
    for place, row in enumerate(big.reshape(labels.size, -1)):
        yield Row(row, labels[place : place + 1])


def _attention_rows(constraint: HeadSizes) -> Iterator[list[Row]]:
    """A head leaves with its queries and outputs; where heads share keys, all that share them leave."""
    for group in range(constraint.queries.shape[0]):
        labels = np.concatenate([np.zeros(0, np.int64), *(other[group].ravel() for other in constraint.others)])
        queries = [Row(row, labels) for row in constraint.queries[group]]
        outputs = [Row(row, labels) for row in constraint.outputs[group]]
        shared = [Row(constraint.keys[group], labels), Row(constraint.values[group], labels)]
        yield [*queries, *outputs, *shared]


def heads_of(rows: Sequence[list[Row]]) -> list[Classes]:
    """Return the classes of each head: rows that share a label or all of their classes are one head's."""
    numbers: dict[tuple[str, bytes], int] = {}
    pairs, members = [], []
    for together in rows:
        first = -1
        for row in together:
            keys = [("row", np.unique(row.classes).tobytes()), *(("label", label.tobytes()) for label in row.labels)]
            for key in keys:
                number = numbers.setdefault(key, len(numbers))
                first = number if first < 0 else first
                pairs.append((first, number))
            members.append((first, np.concatenate([row.classes, row.labels])))
    root = connected(len(numbers), [(np.array([a]), np.array([b])) for a, b in pairs])
    found: dict[int, list[Classes]] = {}
    for number, classes in members:
        found.setdefault(int(root[number]), []).append(classes)
    return [np.unique(np.concatenate(parts)) for parts in found.values()]


def ragged_tables(constraints: Iterable[Constraint], cell_of: Classes) -> list[Classes]:
    """Return tables of cells [rows, size] of which each row must keep equally many, at places of its own.

    Tables that share rows are one, so that all of their rows keep equally many.
    """
    tables = []
    for constraint in constraints:
        if isinstance(constraint, Box) and not constraint.strict:
            last = max(axis for axis, length in enumerate(constraint.ids.shape) if length > 1)
            ids = np.moveaxis(constraint.ids, last, -1)
            tables.append(cell_of[ids.reshape(-1, ids.shape[-1])])
        elif isinstance(constraint, Groups):
            tables += [cell_of[constraint.inputs], cell_of[constraint.outputs]]
        elif isinstance(constraint, HeadSizes):
            tables += [cell_of[constraint.keys], cell_of[constraint.values]]
    return _merged([np.unique(table, axis=0) for table in tables if table.shape[1] > 1])


def _merged(tables: Sequence[Classes]) -> list[Classes]:
    found: list[Classes] = []
    for table in sorted((table for table in tables if len(table) > 1), key=len):
        shared = [other for other in found if other.shape[1] == table.shape[1] and _share(other, table)]
        found = [other for other in found if not any(other is one for one in shared)]
        found.append(np.unique(np.concatenate([table, *shared]), axis=0))
    return found


def _share(left: Classes, right: Classes) -> bool:
    rows = {row.tobytes() for row in left}
    return any(row.tobytes() in rows for row in right)
