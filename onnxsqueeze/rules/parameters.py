"""Ways to list the constants of a node that several operators share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import compacted
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Parameters
from onnxsqueeze.rules.parameter import Classes, Parameter, Role
from onnxsqueeze.rules.weight_view import Linear


def along(context: Context, name: str, axis: int) -> Classes:
    """Return the classes along one axis of a tensor, as they are at the first position of the others; [C] or [1]."""
    classes = np.moveaxis(context.ids(name), axis, -1)
    return np.asarray(classes.reshape(-1, classes.shape[-1])[0])


def placed(vector: npt.NDArray[Any], rank: int, axis: int) -> npt.NDArray[Any]:
    """Return a vector along one axis of an array of a rank."""
    return vector.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))


def linear_classes(linear: Linear, rows: Classes, data: Classes) -> tuple[Classes, ...]:
    """Place the classes of a layer's outputs and inputs along the axes of its weight as it is stored.

    Args:
        linear: the layer. rows: of its outputs [groups * out]. data: of its inputs [groups * in]; of no account where
            rows are looked up. Either may have length 1.
    """
    if linear.groups == 1:
        rank = linear.stored_rank
        found = [placed(rows, rank, linear.stored_axis(1))]
        return tuple(found if linear.is_table else [*found, placed(data, rank, linear.stored_axis(2))])
    shape = linear.matrix.shape
    out, inner = linear.per_group(rows, True), linear.per_group(data, False)
    arrays = [np.broadcast_to(out[:, :, None, None], shape)]
    if not linear.depthwise:
        arrays.append(np.broadcast_to(inner[:, None, :, None], shape))
    return tuple(compacted(linear.restore(array)) for array in arrays)


def linear_parameters(node: Node, context: Context, linear: Linear) -> list[Parameter]:
    """Return the weight and the bias of a linear layer."""
    output = node.outputs[0]
    rows = along(context, output, linear.output_axis)
    data = rows[:1] if linear.is_table else along(context, linear.data, linear.data_axis)
    others = tuple(axis for axis in range(context.rank(output)) if axis != linear.output_axis)
    classes = linear_classes(linear, rows, data)
    multiplied = None if linear.is_table else (output, others)
    found = [Parameter(linear.weight, linear.position, Role.WEIGHT, classes, multiplied)]
    if linear.bias:
        shape = np.asarray(context.value(linear.bias)).shape
        if len(shape) > 1:  # Gemm's may have one entry for each row as well
            own: tuple[Classes, ...] = (_fitted(context.ids(output), shape),)
        else:
            own = () if not shape or shape[0] < rows.size else (rows,)
        found.append(Parameter(linear.bias, node.inputs.index(linear.bias, 2), Role.SUMMAND, own))
    return found


def channel_parameters(*roles: tuple[int, Role], axis: int = 1) -> Parameters:
    """Return what lists constants that have one entry for each channel of the output along an axis.

    They are vectors, or, of a norm that is spelt out, broadcast against the output: [C, 1, 1].

    Args:
        roles: (input position, role) of each. axis: of the channels.
    """

    def parameters(node: Node, context: Context) -> list[Parameter]:
        channels, shape = along(context, node.outputs[0], axis), context.shape(node.outputs[0])
        found = []
        for position, role in roles:
            own = context.shapes.get(node.inputs[position], ()) if node.input(position) else ()
            places = [place for place, size in enumerate(own) if size != 1]
            vector = own == (shape[axis],)
            if vector or (places == [axis - len(shape) + len(own)] and own[places[0]] == shape[axis]):
                classes = channels if vector else placed(channels, len(own), places[0])
                found.append(Parameter(node.inputs[position], position, role, (classes,)))
        return found

    return parameters


def operand_parameters(role: Role) -> Parameters:
    """Return what lists the constants among a node's inputs that broadcast against its first output."""

    def parameters(node: Node, context: Context) -> list[Parameter]:
        ids = context.ids(node.outputs[0])
        found = []
        for position, name in enumerate(node.inputs):
            value = context.value(name) if name and not context.is_activation(name) else None
            if value is not None and _broadcasts(value.shape, ids.shape):
                found.append(Parameter(name, position, role, (_fitted(ids, value.shape),)))
        return found

    return parameters


def setting_parameters(node: Node, context: Context) -> list[Parameter]:
    """List a node's constants as what belongs to no channel."""
    names = [(position, name) for position, name in enumerate(node.inputs) if name and not context.is_activation(name)]
    return [Parameter(name, position, Role.SETTING) for position, name in names]


def _broadcasts(shape: tuple[int, ...], classes: tuple[int, ...]) -> bool:
    if len(shape) > len(classes):
        return False
    pairs = zip(shape[::-1], classes[::-1], strict=False)
    return all(1 in pair or pair[0] == pair[1] for pair in pairs)


def _fitted(classes: Classes, shape: tuple[int, ...]) -> Classes:
    """Keep the first class along each axis on which a constant of this shape has one entry or none."""
    classes = classes[(0,) * (classes.ndim - len(shape))]
    for axis, length in enumerate(shape):
        if length == 1:
            classes = classes[(slice(None),) * axis + (slice(0, 1),)]
    return classes
