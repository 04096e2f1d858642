"""Which classes of channels leave together, from the relations that the analysis found between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.classes import connected
from onnxsqueeze.coupling.constraint import Classes, Constraint, Row
from onnxsqueeze.coupling.constraints import Box


def constraints_of(analysis: Analysis) -> list[Constraint]:
    """Return all relations that hold whatever the weights are, on final class numbers."""
    elements = analysis.context.elements
    found: dict[tuple[tuple[int, ...], bool, bytes], Constraint] = {}
    for name in elements.ids:
        ids = analysis.classes_of(name).squeeze()
        if ids.ndim > 1 and name not in elements.loose:
            strict = name in elements.strict
            found[ids.shape, strict, ids.tobytes()] = Box(ids, strict)
    others = [c.labelled(analysis.labels) for c in elements.constraints if not c.by_value]
    return [*found.values(), *others]


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
    tables = [cell_of[table] for constraint in constraints for table in constraint.tables()]
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
