"""Which elements of the stored weights belong to which class of channels, by the nodes that read them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import compacted
from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import UNKNOWN, Context, OpRule
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.parameters import along, linear_classes, linear_parameters, placed
from onnxsqueeze.rules.weight_view import Linear
from onnxsqueeze.units.tracing import traced_back

Classes = npt.NDArray[np.int64]
_ERASED = (Role.WEIGHT, Role.SUMMAND, Role.FACTOR)
"""What must be zero, or may be, where a channel is to leave; zeros elsewhere would be another function."""


@dataclass(frozen=True)
class Use:
    """How one node reads one stored weight.

    Attributes:
        name: the initializer.
        arrays: classes of its elements, each of its rank and with length 1 along axes on which they do not depend. An
            element leaves with any of its classes.
        erase: whether the elements of a class that is to leave must be zero.
        output: the tensor for each of whose positions the weight is multiplied once; "" for what costs nothing.
    """

    name: str
    arrays: tuple[Classes, ...]
    erase: bool = True
    output: str = ""


@dataclass(frozen=True)
class Reading:
    """A tensor that a contraction sums over, so that its classes end there: where a unit's worth is measured.

    Attributes:
        tensor: its name.
        classes: the class of each of its elements (compact).
        whole: whether a layer reads all of it, so that what a head as a whole is worth can be seen there.
        again: whether the same layer reads it by other classes as well: by channel, and here by position.
    """

    tensor: str
    classes: Classes
    whole: bool = True
    again: bool = False


@dataclass
class Weights:
    """What the nodes of a graph say of its weights.

    Attributes:
        uses: of stored weights. readings: see `Reading`. writings: the same of what layers compute.
        blocked: classes that cannot leave, since a weight of theirs cannot be erased.
        trained: the initializers that can be; None for all.
    """

    uses: list[Use]
    readings: list[Reading]
    writings: list[Reading]
    blocked: list[Classes]
    trained: Collection[str] | None


def weights_of(analysis: Analysis, columns: ColumnClasses, trained: Collection[str] | None) -> Weights:
    """Go through the nodes of a graph."""
    found = Weights([], [], [], [], trained)
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        if rule is UNKNOWN or not any(map(analysis.context.is_activation, node.outputs)):
            continue
        if rule.linear is not None:
            _linear(rule.linear(node, analysis.context), node, analysis, found, columns)
        else:
            _parameters(node, rule, analysis, found)
    return found


@dataclass(frozen=True)
class Gathered:
    """A layer that can gather those of its columns that stay.

    Attributes:
        columns: the class of each. read: the class of what each multiplies, with which it leaves, too.
        rows: the classes of the layer's outputs.
    """

    columns: Classes
    read: Classes
    rows: Classes


class ColumnClasses:
    """Gives numbers beyond those of the analysis to columns that can leave by themselves.

    They are those of layers that read what cannot be narrowed, and positions of one channel side by side, as they are
    behind Flatten. ``layers`` lists them.
    """

    def __init__(self, start: int, fixed: Callable[[Classes], bool], wanted: bool, positions: bool) -> None:
        self._start, self._fixed, self._wanted, self._positions = start, fixed, wanted, positions
        self.count = 0
        self.layers: list[Gathered] = []

    def of(self, linear: Linear, rows: Classes, classes: Classes, last: bool) -> list[Classes]:
        """Return the classes of a layer's columns; a column leaves with either of its own.

        Args:
            linear: the layer. rows: classes of its outputs. classes: of what it reads; new ones stand for these where
                they must stay, and beside them where they are of fewer channels than there are columns.
            last: whether those lie along the last axis, from which few can be gathered fast.
        """
        _, _, length, taps = linear.matrix.shape
        if not self._wanted or linear.groups > 1 or taps > 1 or length < 2:
            return [classes]
        fixed = self._fixed(classes)
        if not fixed and not (self._positions and last and np.unique(classes).size < length):
            return [classes]
        first = self._start + self.count
        self.count += length
        columns = np.arange(first, first + length, dtype=np.int64)
        self.layers.append(Gathered(columns, np.broadcast_to(classes, length), rows))
        return [columns] if fixed else [classes, columns]


def _linear(linear: Linear, node: Node, analysis: Analysis, found: Weights, columns: ColumnClasses) -> None:
    context, output, labels = analysis.context, node.outputs[0], analysis.labels
    for parameter in linear_parameters(node, context, linear):
        if parameter.role is not Role.WEIGHT and parameter.classes:
            _store(Use(parameter.name, _labelled(parameter, analysis)), analysis, found)
    rows = labels[along(context, output, linear.output_axis)]
    if linear.is_table:
        _store(Use(linear.weight, linear_classes(linear, rows, np.zeros(0, np.int64))), analysis, found)
    else:
        rank = context.rank(linear.data)
        own = labels[along(context, linear.data, linear.data_axis)]
        data = columns.of(linear, rows, own, linear.data_axis == rank - 1)
        arrays = linear_classes(linear, rows, data[0])
        arrays += tuple(linear_classes(linear, rows, each)[1] for each in data[1:])
        _store(Use(linear.weight, arrays, output=output), analysis, found)
        for number, each in enumerate(data if not linear.depthwise else ()):
            classes = placed(each, rank, linear.data_axis)
            found.readings.append(Reading(linear.data, classes, linear.groups == 1, number > 0))
    found.writings.append(Reading(output, analysis.classes_of(output)))


def _parameters(node: Node, rule: OpRule, analysis: Analysis, found: Weights) -> None:
    """Constants of which the rule does not say what they do block whatever the node computes."""
    context, output = analysis.context, next(name for name in node.outputs if name)
    parameters = rule.parameters(node, context)
    for parameter in parameters:
        if parameter.classes and _is_weight(parameter.name, context):
            multiplied = output if parameter.role is Role.WEIGHT else ""
            use = Use(parameter.name, _labelled(parameter, analysis), parameter.role in _ERASED, multiplied)
            _store(use, analysis, found, parameter.role is Role.FACTOR)
    told = {parameter.position for parameter in parameters}
    for position, name in enumerate(node.inputs):
        if position not in told and _is_weight(name, context):
            found.blocked.append(analysis.classes_of(output))
    layer = any(parameter.role is Role.WEIGHT for parameter in parameters)
    for name in rule.contracts(node, context) if rule.contracts is not None else ():
        found.readings.append(Reading(name, analysis.classes_of(name), layer))
    if layer:
        found.writings.append(Reading(output, analysis.classes_of(output)))


def _is_weight(name: str, context: Context) -> bool:
    value = context.value(name) if name and not context.is_activation(name) else None
    return value is not None and is_floating(value.dtype) and value.size > 1


def _labelled(parameter: Parameter, analysis: Analysis) -> tuple[Classes, ...]:
    return tuple(analysis.labels[array] for array in parameter.classes)


def _store(use: Use, analysis: Analysis, found: Weights, harmless: bool = False) -> None:
    """Follow a constant back to the initializers that it is made of.

    What cannot be erased blocks its classes, unless it is a vector, which adds the same everywhere, or ``harmless``: it
    has no effect on a channel of zeros.
    """
    traced = traced_back(use.name, use.arrays, analysis)
    erasable = traced is not None and (found.trained is None or all(name in found.trained for name in traced))
    for name, arrays in (traced or {}).items():
        own = replace(use, name=name, arrays=tuple(compacted(array) for array in arrays))
        found.uses.append(replace(own, erase=use.erase and erasable))
    if use.erase and not harmless and not erasable and len(analysis.context.shapes[use.name]) > 1:
        found.blocked.extend(use.arrays)
