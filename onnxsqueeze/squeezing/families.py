"""Units of one kind side by side, of which any number may leave: where one size per layer is decided on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxsqueeze.squeezing.least_squares import Numbers
from onnxsqueeze.squeezing.reader import Reader
from onnxsqueeze.units.units import Kind, Units

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Family:
    """Units among which an order is to be found in which they leave.

    Attributes:
        name: of the tensor in which they stand side by side, for the report. kind: of the units.
        units: their numbers. rows: for dims of heads, the place of each unit's head; each must lose equally many.
        readers: the layers that read them and can be repaired. exact: whether those are all that read them, so that
            least squares say what a unit is worth; else it is measured at the network's outputs.
    """

    name: str
    kind: Kind
    units: Numbers
    rows: Numbers | None
    readers: tuple[Reader, ...]
    exact: bool

    @property
    def size(self) -> int:
        """How many steps down there are: units, or dims of each head."""
        return int(self.units.size if self.rows is None else self.units.size // (int(self.rows.max()) + 1))

    def columns(self, reader: Reader, units: Units) -> list[list[Numbers]]:
        """Return for each matrix of a reader the columns of each unit; none where it does not read the unit."""
        place = np.full(units.classes + 1, -1)  # the last stands for no class
        for number, unit in enumerate(self.units):
            place[units.members[1][units.members[0] == unit]] = number
        found = []
        columns = place[reader.column_classes()]
        if reader.positions is not None:
            columns = np.maximum(columns, place[reader.positions.reshape(columns.shape)])
        for own in columns:
            order = np.argsort(own, kind="stable")
            bounds = np.searchsorted(own[order], np.arange(len(self.units) + 1))
            pairs = zip(bounds[:-1], bounds[1:], strict=True)
            found.append([order[start:end] for start, end in pairs])
        return found


def families_of(units: Units, readers: Sequence[Reader], keep: Sequence[str], only: Sequence[str]) -> list[Family]:
    """Return the families of a network, each unit in one at most.

    Args:
        units, readers: of it. keep: names or patterns of tensors of which no unit may go. only: of tensors of which
            alone units may go; all without any.
    """
    free = ~units.named(keep)
    if only:
        free &= units.named(only)
    heads = np.isin(np.array(units.kinds, dtype=object).astype(str), ("head",))
    measured, positions = _measured(units, readers), _positions(units)
    found, taken = [], ~free
    for table in units.tables:
        if free[table].all():
            rows = np.repeat(np.arange(len(table)), table.shape[1])
            found.append(_family(units, table.ravel(), rows, readers, measured))
            taken[table] = True
    for group in sorted(units.groups, key=len):
        own = group[~taken[group]]
        for part in (own[heads[own]], own[~heads[own]]):
            if part.size > 1:
                family = _family(units, part, None, readers, measured)
                taken[part] = True
                if family.readers or not positions[part].any():  # there are too many to measure one by one
                    found.append(family)
    return sorted(found, key=lambda family: family.name)


def _family(units: Units, members: Numbers, rows: Numbers | None, readers: Sequence[Reader], measured: Bools) -> Family:
    of_unit = np.isin(units.members[0], members)
    classes = np.zeros(units.classes + 1, dtype=bool)
    classes[units.members[1][of_unit]] = True
    own = tuple(reader for reader in readers if reader.reads(classes))
    exact = bool(own) and not measured[members].any() and all(reader.free for reader in own)
    kind = units.kinds[int(members[0])]
    return Family(_name(units, classes, own), kind, members, rows, own, exact)


def _name(units: Units, classes: Bools, readers: Sequence[Reader]) -> str:
    """Return the first tensor in which classes are written, else the one that reads them."""
    for reading in (*units.writings, *units.readings):
        if classes[reading.classes].any():
            return reading.tensor
    return readers[0].tensors[0] if readers else ""


def _measured(units: Units, readers: Sequence[Reader]) -> Bools:
    """Return the units that something reads which is no repairable layer, so that algebra does not say their worth."""
    counts: dict[str, int] = {}
    for reader in readers:
        for tensor in reader.contracted:
            counts[tensor] = counts.get(tensor, 0) + 1
    found = np.zeros(units.classes, dtype=bool)
    readings = [reading for reading in units.readings if not reading.again]
    for reading in readings:
        if sum(other.tensor == reading.tensor for other in readings) > counts.get(reading.tensor, 0):
            found[reading.classes] = True
    linear = {name for reader in readers for name in reader.stored} | set(_written_only(units))
    for weight in units.weights:
        for use in weight.uses:
            if use.output and len(use.arrays) > 1 and weight.name not in linear:
                for classes in use.arrays:
                    found[classes] = True
    return units.per_unit(found.astype(np.float64)) > 0


def _positions(units: Units) -> Bools:
    """Return the units that are positions of channels."""
    found = np.zeros(units.classes)
    for reading in units.readings:
        if reading.again:
            found[reading.classes] = 1
    return units.per_unit(found) > 0


def _written_only(units: Units) -> Iterator[str]:
    """Yield the weights of linear layers, whose reading side is a `Reading` of its own."""
    outputs = {reading.tensor for reading in units.writings}
    rules = zip(units.analysis.graph.nodes, units.analysis.rules, strict=True)
    linear = {node.outputs[0] for node, rule in rules if rule.linear is not None} & outputs
    for weight in units.weights:
        if all(use.output in linear for use in weight.uses if use.output):
            yield weight.name
