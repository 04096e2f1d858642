"""Which elements of the stored weights belong to which class of channels, by the nodes that read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.recurrent.layer import BIAS, DATA, KERNEL, PEEPHOLE, RECURRENT, Layer, layer_of
from onnxsqueeze.rules.contract import UNKNOWN, Context
from onnxsqueeze.rules.weight_view import Linear
from onnxsqueeze.training.units.probe import FLOATING

Classes = npt.NDArray[np.int64]
_VECTORS = {  # per-channel parameters along the second axis: the inputs, and how many of them may be erased
    "BatchNormalization": ((1, 2, 3, 4), 2),
    "InstanceNormalization": ((1, 2), 2),
    "GroupNormalization": ((1, 2), 2),
}
_ADDED = (  # operators whose constants broadcast against the output, and must become 0 with their channel
    *("Add", "Sub", "Sum", "Where", "Concat", "Expand"),
    *("LayerNormalization", "CompensatedLayerNorm", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
)
_MULTIPLIED = ("Mul", "PRelu", "RMSNormalization", "SimplifiedLayerNormalization")  # those that may
_SLICED = ("Div", "Pow", "Min", "Max", "Mod")  # those where zeros would be another function, or no number
_SETTINGS = ("Resize", "Upsample", "Pad", "Clip", "Dropout")  # those whose constants belong to no channel


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
    """

    tensor: str
    classes: Classes
    whole: bool = True


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
        if rule is UNKNOWN or not analysis.context.is_activation(node.outputs[0]):
            continue
        if rule.weights is not None:
            _linear(rule.weights(node, analysis.context), node, analysis, found, columns)
        elif isinstance(layer_of_node(node, analysis.context), Layer):
            _recurrent(node, analysis, found)
        elif node.op in _VECTORS and not node.domain:
            _per_channel(node, analysis, found)
        else:
            _others(node, analysis, found)
    return found


class ColumnClasses:
    """Gives numbers beyond those of the analysis to the columns of layers that read what cannot be narrowed.

    ``layers`` lists their classes with those of the layers' outputs.
    """

    def __init__(self, start: int, fixed: Callable[[Classes], bool], wanted: bool) -> None:
        self._start, self._fixed, self._wanted = start, fixed, wanted
        self.count = 0
        self.layers: list[tuple[Classes, Classes]] = []

    def of(self, linear: Linear, rows: Classes, classes: Classes) -> Classes:
        """Return the classes of what a layer reads, new ones where those given must stay; ``rows`` are its outputs'."""
        _, _, length, taps = linear.matrix.shape
        if not self._wanted or linear.groups > 1 or taps > 1 or length < 2 or not self._fixed(classes):
            return classes
        first = self._start + self.count
        self.count += length
        columns = np.arange(first, first + length, dtype=np.int64)
        self.layers.append((columns, rows))
        return columns


def along(analysis: Analysis, name: str, axis: int) -> Classes:
    """Return the classes along one axis of a tensor, as they are at the first position of the others; [C] or [1]."""
    classes = np.moveaxis(analysis.classes_of(name), axis, -1)
    return np.asarray(classes.reshape(-1, classes.shape[-1])[0])


def layer_of_node(node: Node, context: Context) -> object:
    """Return the recurrent layer that a node is, or None."""
    return layer_of(node, context) if node.op in ("LSTM", "GRU", "RNN") and not node.domain else None


def _linear(linear: Linear, node: Node, analysis: Analysis, found: Weights, columns: ColumnClasses) -> None:
    rows = along(analysis, node.outputs[0], linear.output_axis)
    data = np.zeros(0, np.int64) if linear.lookup else along(analysis, linear.data, linear.data_axis)
    if not linear.lookup:
        data = columns.of(linear, rows, data)
    context = analysis.context
    arrays = _grouped(linear, rows, data) if linear.groups > 1 else _placed(linear, rows, data)
    multiplied = "" if linear.lookup else node.outputs[0]
    _store(Use(linear.weight, arrays, output=multiplied), analysis, found)
    if linear.bias and context.rank(linear.bias) > 0:
        _store(Use(linear.bias, (_last(rows, context.rank(linear.bias)),)), analysis, found)
    if not linear.depthwise and not linear.lookup:
        placed = _placed_at(data, context.rank(linear.data), linear.data_axis)
        found.readings.append(Reading(linear.data, placed, linear.groups == 1))
    found.writings.append(Reading(node.outputs[0], analysis.classes_of(node.outputs[0])))


def _placed(linear: Linear, rows: Classes, data: Classes) -> tuple[Classes, ...]:
    """Place classes along the axes of a weight that is one matrix."""
    rank = linear.restore(np.empty(linear.matrix.shape, dtype=bool)).ndim
    found = [_placed_at(rows, rank, linear.stored_axis(1))]
    return tuple(found if linear.lookup else [*found, _placed_at(data, rank, linear.stored_axis(2))])


def _placed_at(vector: Classes, rank: int, axis: int) -> Classes:
    return vector.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))


def _last(vector: Classes, rank: int) -> Classes:
    return _placed_at(vector, rank, rank - 1)


def _grouped(linear: Linear, rows: Classes, data: Classes) -> tuple[Classes, ...]:
    """Spread classes over a weight of several groups."""
    shape = linear.matrix.shape
    out, inner = linear.per_group(rows, True), linear.per_group(data, False)
    arrays = [np.broadcast_to(out[:, :, None, None], shape)]
    if not linear.depthwise:
        arrays.append(np.broadcast_to(inner[:, None, :, None], shape))
    return tuple(linear.restore(array) for array in arrays)


def _recurrent(node: Node, analysis: Analysis, found: Weights) -> None:
    """Each gate has a row for each unit; each unit that stays reads the units and the features."""
    context = analysis.context
    layer = layer_of(node, context)
    assert isinstance(layer, Layer)
    output = next(name for name in node.outputs if name)
    units = layer.by_unit(analysis.classes_of(output))
    features = np.broadcast_to(along(analysis, node.inputs[DATA], 2), (layer.features,))
    gates = layer.kernel.shape[1]
    rows = np.tile(units, (1, gates))[:, :, None]
    _store(Use(node.inputs[KERNEL], (rows, features[None, None, :]), output=output), analysis, found)
    _store(Use(node.inputs[RECURRENT], (rows, units[:, None, :]), output=output), analysis, found)
    if node.input(BIAS):
        _store(Use(node.inputs[BIAS], (np.tile(units, (1, 2 * gates)),)), analysis, found)
    if node.input(PEEPHOLE):
        _store(Use(node.inputs[PEEPHOLE], (np.tile(units, (1, 3)),)), analysis, found)
    found.readings.append(Reading(node.inputs[DATA], features[None, None, :]))
    found.writings.append(Reading(output, analysis.classes_of(output)))


def _per_channel(node: Node, analysis: Analysis, found: Weights) -> None:
    positions, erased = _VECTORS[node.op]
    channels = along(analysis, node.outputs[0], 1)
    for place, position in enumerate(positions):
        name = node.input(position)
        shape = analysis.context.shapes.get(name, ())
        if shape == (channels.size,):
            _store(Use(name, (channels,), place < erased), analysis, found)


def _others(node: Node, analysis: Analysis, found: Weights) -> None:
    """Constants that broadcast against what a node computes, or that it lays beside its data."""
    context, output = analysis.context, node.outputs[0]
    for position, name in enumerate(node.inputs if node.op not in _SETTINGS else ()):
        value = context.value(name) if name and not context.is_activation(name) else None
        if value is None or value.dtype.name not in FLOATING or value.size < 2:
            continue
        classes = analysis.classes_of(output)
        if node.op == "Concat":
            classes = _part(node, position, context, classes)
        elif node.op not in _ADDED + _MULTIPLIED + _SLICED or not _broadcasts(value.shape, classes.shape):
            found.blocked.append(classes)
            continue
        lead = classes.ndim - value.ndim
        classes = classes.reshape(classes.shape[lead:]) if _only_ones(classes.shape[:lead]) else classes[(0,) * lead]
        use = Use(name, (_fitted(classes, value.shape),), node.op in _ADDED + _MULTIPLIED)
        _store(use, analysis, found, node.op in _MULTIPLIED)
    if ("attention", node.index) in context.scratch:
        view = context.scratch["attention", node.index]
        found.readings.append(Reading(view.query.name, analysis.classes_of(view.query.name), False))
    elif node.op == "MatMul" and all(context.is_activation(name) for name in node.inputs):
        classes = analysis.classes_of(node.inputs[0])
        if classes.shape[-1:] > (1,):
            found.readings.append(Reading(node.inputs[0], classes, False))


def _part(node: Node, position: int, context: Context, classes: Classes) -> Classes:
    """Return the classes of what one input of a Concat becomes."""
    axis = int(node.attributes["axis"]) % classes.ndim
    if classes.shape[axis] == 1:
        return classes
    lengths = [int(context.shape(name)[axis]) for name in node.inputs]  # type: ignore[arg-type]
    start = sum(lengths[:position])
    return np.take(classes, np.arange(start, start + lengths[position]), axis=axis)


def _broadcasts(shape: tuple[int, ...], classes: tuple[int, ...]) -> bool:
    if len(shape) > len(classes):
        return False
    pairs = zip(shape[::-1], classes[::-1], strict=False)
    return all(1 in pair or pair[0] == pair[1] for pair in pairs)


def _only_ones(shape: tuple[int, ...]) -> bool:
    return all(length == 1 for length in shape)


def _fitted(classes: Classes, shape: tuple[int, ...]) -> Classes:
    """Keep the first class along each axis on which the constant has one entry."""
    for axis, length in enumerate(shape):
        if length == 1:
            classes = classes[(slice(None),) * axis + (slice(0, 1),)]
    return classes


def _store(use: Use, analysis: Analysis, found: Weights, idle: bool = False) -> None:
    """Follow a constant back to the initializer that it is a view of.

    What cannot be erased blocks its classes, unless it is a vector, which adds the same everywhere, or ``idle``: it has
    no effect on a channel of zeros.
    """
    traced = _traced(use, analysis)
    erasable = traced is not None and (found.trained is None or traced.name in found.trained)
    if traced is not None:
        arrays = tuple(compact(array) for array in traced.arrays)
        found.uses.append(replace(traced, arrays=arrays, erase=traced.erase and erasable))
    if use.erase and not idle and not erasable and len(analysis.context.shapes[use.name]) > 1:
        found.blocked.extend(use.arrays)


def _traced(use: Use, analysis: Analysis) -> Use | None:
    graph, context = analysis.graph, analysis.context
    name, arrays = use.name, use.arrays
    while name not in graph.initializers:
        node = graph.producers.get(name)
        moved = None if node is None or node.domain else _moved_back(node, context, arrays)
        if node is None or moved is None:
            return None
        name, arrays = node.inputs[0], moved
    return replace(use, name=name, arrays=arrays)


def _moved_back(node: Node, context: Context, arrays: Sequence[Classes]) -> tuple[Classes, ...] | None:
    """Return the classes of what a node moves about; None if it does something else."""
    if node.op in ("Identity", "Cast"):
        return tuple(arrays)
    if node.op == "Transpose":
        order = [int(axis) for axis in node.attributes.get("perm", range(arrays[0].ndim)[::-1])]
        return tuple(array.transpose(np.argsort(order)) for array in arrays)
    value, output = context.value(node.input(0)), context.value(node.outputs[0])
    if node.op in ("Slice", "Gather") and value is not None and output is not None:
        return _before_choice(node, context, tuple(compact(array) for array in arrays), value.shape, output.shape)
    if node.op not in ("Reshape", "Unsqueeze", "Squeeze", "Flatten") or value is None or output is None:
        return None
    return tuple(np.broadcast_to(array, output.shape).reshape(value.shape) for array in arrays)


def _before_choice(
    node: Node, context: Context, arrays: tuple[Classes, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[Classes, ...] | None:
    """Return the classes of a table of which a node chooses rows, if they do not depend on the row."""
    if node.op == "Slice":
        chosen = [axis for axis, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
        return None if any(array.shape[axis] > 1 for array in arrays for axis in chosen) else arrays
    axis = int(node.attributes.get("axis", 0)) % len(before)
    end = axis + context.rank(node.inputs[1])
    if any(length > 1 for array in arrays for length in array.shape[axis:end]):
        return None
    return tuple(array.reshape(*array.shape[:axis], 1, *array.shape[end:]) for array in arrays)


def compact(array: Classes) -> Classes:
    """Drop every axis to length 1 along which all classes are equal."""
    for axis in _varying(array.shape):
        first = array[(slice(None),) * axis + (slice(0, 1),)]
        if (array == first).all():
            array = first
    return array


def _varying(shape: Sequence[int]) -> Iterator[int]:
    return (axis for axis, length in enumerate(shape) if length > 1)
