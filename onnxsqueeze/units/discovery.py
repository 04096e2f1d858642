"""From a model to its units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.classes import connected
from onnxsqueeze.coupling.constraint import Classes, Constraint, Row
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.model import Model
from onnxsqueeze.units.class_uses import ColumnClasses, Reading, Use, Weights, weights_of
from onnxsqueeze.units.coupling import constraints_of, heads_of, ragged_tables
from onnxsqueeze.units.probe import probed
from onnxsqueeze.units.sizes import separate_axes, stored_weights
from onnxsqueeze.units.units import Kind, Units

Bools = npt.NDArray[np.bool_]
_OF_CONSTANTS = (Reason.CONSTANT_READ, Reason.CONSTANT_VARIES)
"""Reasons to hold a constant, which what leaves is only as a zero."""


def units_of(
    model: Model,
    columns: bool = True,
    positions: bool = False,
    trained: Collection[str] | None = None,
    sizes: Mapping[str, int] = MappingProxyType({}),
    emptied: bool = False,
) -> Units:
    """Find the units of a model.

    Args:
        model: any; zeros in it do not matter.
        columns: whether columns of layers that read the graph's inputs, or whatever else must stay, are units.
        positions: whether so are those of one channel side by side, as they are behind Flatten; they leave with it, or
            each alone.
        trained: the initializers that can be masked; by default all. Those that cannot may block units.
        sizes: of dynamic dimensions by name, for counts of multiply-accumulates; others are assumed.
        emptied: whether all that a layer reads may leave, after which it computes its bias.
    """
    model = with_initializers(model)
    analysis = probed(model)
    pinned = _pinned(analysis)
    numbers = ColumnClasses(analysis.classes, lambda classes: bool(pinned[classes].all()), columns, positions)
    weights = weights_of(analysis, numbers, trained)
    for classes in weights.blocked:
        pinned[classes[classes < analysis.classes]] = True
    constraints = [each for each in constraints_of(analysis) if not (emptied and each.keeps_last)]
    rows = [together for constraint in constraints for together in constraint.rows()]
    count = analysis.classes + numbers.count
    coupled = (pair for constraint in constraints for pair in constraint.coupled())
    cell_of = connected(count, [*coupled, *_tied(weights.uses)])
    fixed = _spread(cell_of, np.concatenate([pinned, np.zeros(numbers.count, dtype=bool)]))
    free = _weighted(weights.uses, count) & ~fixed
    whole = _spread(cell_of, free) & ~fixed & ~_spread(cell_of, _labels(rows, count))
    tables = ragged_tables(constraints, cell_of)
    for table in tables:
        if not whole[table].all():
            whole[np.isin(cell_of, table)] = False
    unit_of, number = _numbered(cell_of, whole)
    heads = [head for head in heads_of(rows) if not fixed[head].any() and free[head].any()]
    tables = [unit_of[table] for table in tables if whole[table].all()]
    kinds: list[Kind] = _kinds(
        unit_of, number, weights, analysis.classes, [*tables, *(unit_of[head] for head in heads)]
    )
    in_tables = np.isin(np.arange(number), np.concatenate([np.zeros(0, np.int64), *map(np.ravel, tables)]))
    heads_kind: list[Kind] = ["head" for _ in heads]
    groups = [*_layers(weights, unit_of, in_tables), *_attentions(constraints, heads, number, count)]
    return Units(
        kinds=(*kinds, *heads_kind),
        members=_members(unit_of, heads, number),
        tables=tuple(tables),
        groups=tuple(groups),
        weights=tuple(stored_weights(weights.uses, {n: i.shape for n, i in model.initializers.items()})),
        readings=tuple(weights.readings),
        writings=tuple(weights.writings),
        normalised=tuple(_normalised(analysis)),
        gathered=tuple(numbers.layers),
        constraints=tuple(constraints),
        fixed=fixed,
        elements=weight_elements(model),
        analysis=analysis,
        sizes=sizes,
    )


def _pinned(analysis: Analysis) -> Bools:
    """Return the classes that cannot leave: of the graph's inputs and outputs, and of what no rule understands."""
    found = np.zeros(analysis.classes, dtype=bool)
    for pin in analysis.pins:
        if analysis.context.is_activation(pin.tensor):
            found[analysis.classes_of(pin.tensor)] = True
    for name, hold, why in analysis.backward(np.ones(analysis.classes, dtype=bool)).holds:
        if why.reason not in _OF_CONSTANTS:
            found[analysis.classes_of(name)[hold]] = True
    return found


def _normalised(analysis: Analysis) -> Iterator[Classes]:
    """Yield the classes of streams of which the minimizer keeps a constant, each once."""
    seen = set()
    for constraint in analysis.context.elements.constraints:
        classes = np.unique(analysis.labels[constraint.normalised()])
        if classes.size and classes.tobytes() not in seen:
            seen.add(classes.tobytes())
            yield classes


def _tied(uses: Sequence[Use]) -> Iterator[tuple[Classes, Classes]]:
    """What one stored matrix is for several readers leaves for all of them, since there is but one to be zero."""
    by_name: dict[str, list[Use]] = {}
    for use in uses:
        if use.erase and len(use.arrays) > 1 or use.arrays[0].ndim > 1:
            by_name.setdefault(use.name, []).append(use)
    for own in by_name.values():
        for left, right in combinations(own, 2):
            axes, others = separate_axes(left.arrays), separate_axes(right.arrays)
            if axes is not None and others is not None:
                for axis in set(axes) & set(others):
                    pairs = zip(_of_axis(left, axes, axis), _of_axis(right, others, axis), strict=False)
                    yield from (pair for pair in pairs if pair[0].shape == pair[1].shape)
            elif [array.shape for array in left.arrays] == [array.shape for array in right.arrays]:
                yield from zip(left.arrays, right.arrays, strict=True)


def _of_axis(use: Use, axes: Sequence[int], axis: int) -> list[Classes]:
    return [array for array, place in zip(use.arrays, axes, strict=True) if place == axis]


def _spread(cell_of: Classes, marked: Bools) -> Bools:
    """Mark all classes of the cells of which one is marked."""
    found = np.zeros(cell_of.size, dtype=bool)
    found[cell_of[marked]] = True
    return np.asarray(found[cell_of])


def _weighted(uses: Iterable[Use], count: int) -> Bools:
    """Return the classes that are one among several along an axis of some weight."""
    found = np.zeros(count, dtype=bool)
    for use in uses:
        for array in use.arrays:
            if array.size > 1:
                found[array] = True
    return found


def _labels(rows: Iterable[Sequence[Row]], count: int) -> Bools:
    """Return the classes that stand for whole heads, which leave with them alone."""
    found = np.zeros(count, dtype=bool)
    for together in rows:
        for row in together:
            found[row.labels] = True
    return found


def _numbered(cell_of: Classes, whole: Bools) -> tuple[Classes, int]:
    """Number the cells that are units; -1 for the others."""
    cells = np.unique(cell_of[whole])
    numbers = np.full(cell_of.size, -1)
    numbers[cells] = np.arange(len(cells))
    return numbers[cell_of], len(cells)


def _members(unit_of: Classes, heads: Sequence[Classes], number: int) -> tuple[Classes, Classes]:
    classes = np.nonzero(unit_of >= 0)[0]
    unit = np.concatenate([unit_of[classes], *(np.full(head.size, number + i) for i, head in enumerate(heads))])
    member = np.concatenate([classes, *heads])
    order = np.lexsort((member, unit))
    return unit[order], member[order]


def _kinds(unit_of: Classes, number: int, weights: Weights, columns: int, heads: Sequence[Classes]) -> list[Kind]:
    """Say what the units are; those of several writers and several readers are a stream's."""
    several = np.ones(number, dtype=bool)
    for readings in (weights.readings, weights.writings):
        counts = np.zeros(number)
        for tensor in {reading.tensor: reading for reading in readings if not reading.again}.values():
            counts[np.unique(_units_in(tensor, unit_of))] += 1
        several &= counts > 1
    found = np.where(several, "stream", "hidden").astype(object)
    dims = np.concatenate([np.zeros(0, np.int64), *map(np.ravel, heads)])
    found[dims[dims >= 0]] = "dim"
    own = unit_of[columns:]
    found[own[own >= 0]] = "column"
    return list(found)


def _units_in(reading: Reading, unit_of: Classes) -> Classes:
    units = unit_of[reading.classes.ravel()]
    return np.asarray(units[units >= 0])


def _layers(weights: Weights, unit_of: Classes, in_tables: Bools) -> Iterator[Classes]:
    """Yield the units side by side in what a layer reads or writes, each set once."""
    seen = set()
    for reading in (*weights.readings, *weights.writings):
        units = np.unique(_units_in(reading, unit_of))
        units = units[~in_tables[units]]
        if units.size and units.tobytes() not in seen:
            seen.add(units.tobytes())
            yield units


def _attentions(
    constraints: Iterable[Constraint], heads: Sequence[Classes], number: int, count: int
) -> Iterator[Classes]:
    """Yield the heads side by side in one attention, or the groups of one convolution, each set once."""
    head_of = np.full(count, -1)
    for place, head in enumerate(heads):
        head_of[head] = number + place
    seen = set()
    for constraint in constraints:
        units = np.unique(head_of[constraint.side_by_side()])
        units = units[units >= 0]
        if units.size and units.tobytes() not in seen:
            seen.add(units.tobytes())
            yield units
