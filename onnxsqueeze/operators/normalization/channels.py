"""How a normalisation over one axis reads its channels: all of them, but constants can leave.

That is the last axis, but for those that exporters spell out over the channels of an image, in front of space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats, all_finite, fit_all
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import OVER_CHANNELS, Node
from onnxsqueeze.rules.channels import channel_constants
from onnxsqueeze.rules.contract import Context, Demand, Refusal
from onnxsqueeze.rules.queries import constant_vector


def refusal(node: Node, context: Context, parameters: Sequence[int]) -> Refusal | None:
    """Refuse what is not a normalisation over one axis of known length, with constant vectors as parameters.

    An operator of a file normalises over all axes from its own on, so that this must be the last; a pattern of one axis
    says so by its name.
    """
    width = width_of(node, context)
    alone = axis_of(node, context) == context.rank(node.inputs[0]) - 1 or node.op in OVER_CHANNELS.values()
    if width is None or not alone:
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} over several axes or one of unknown length")
    for position in parameters:
        if not node.input(position):
            continue
        vector = constant_vector(context, node.inputs[position])
        if vector is None:
            return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
        if not all_finite(vector):
            return Refusal(Reason.NOT_FINITE, node.inputs[position])
        if vector.size not in (1, width):
            return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with parameters of another length")
    return None


def statistics_refusal(node: Node, context: Context) -> Refusal | None:
    """Refuse a norm whose further outputs, mean and deviation, are wanted."""
    if any(name and (context.graph.readers.get(name) or name in context.graph.outputs) for name in node.outputs[1:]):
        return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} whose mean or deviation is read")
    return None


def axis_of(node: Node, context: Context) -> int:
    """Return the normalised axis, counted from the front."""
    return int(node.attributes.get("axis", -1)) % max(1, context.rank(node.inputs[0]))


def placed(node: Node, context: Context, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a vector along the normalised axis of an array that broadcasts against the input."""
    return vector.reshape((-1,) + (1,) * (context.rank(node.inputs[0]) - 1 - axis_of(node, context)))


def along_axis(node: Node, context: Context, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a vector along the normalised axis of an array of the input's rank."""
    shape = [1] * context.rank(node.inputs[0])
    shape[axis_of(node, context)] = -1
    return vector.reshape(shape)


def width_of(node: Node, context: Context) -> int | None:
    """Return the length of the normalised axis, None if it is known only at run time."""
    shape = context.shape(node.inputs[0])
    width = shape[axis_of(node, context)] if shape else None
    return width if isinstance(width, int) else None


def parameter(node: Node, context: Context, position: int, default: float) -> Floats:
    """Return a constant parameter as float64 [N]; ``default`` where it is absent."""
    width = width_of(node, context)
    assert width is not None
    vector = constant_vector(context, node.input(position)) if node.input(position) else None
    return np.broadcast_to(np.float64(default) if vector is None else vector, (width,))


def constants_of(node: Node, context: Context) -> Floats:
    """Return the value of each channel that is one constant everywhere, NaN elsewhere; [N]."""
    width = width_of(node, context)
    assert width is not None
    return np.broadcast_to(channel_constants(context, node.inputs[0], axis_of(node, context)), (width,))


def link_channels(node: Node, context: Context) -> bool:
    """Give the output the input's classes; return whether channels are told apart, which they are on one axis alone.

    Where another axis varies too, either the channels stay or go at all positions alike (tokens of several origins), or
    each row as a whole (heads that are normalised one by one): the former if any channel could go.
    """
    elements, name = context.elements, node.inputs[0]
    ids = context.ids(name)
    axis = axis_of(node, context)
    if ids.size > ids.shape[axis] > 1:
        alike = bool((~np.isnan(constants_of(node, context))).any())
        others = tuple(other for other in range(ids.ndim) if other != axis)
        ids = elements.merge(ids, others if alike else (axis,))
        if context.is_activation(name):
            elements.ids[name] = ids
    elements.ids[node.outputs[0]] = ids
    return bool(ids.size == ids.shape[axis] > 1)


def keeps_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    """The output is shaped like the input; means and deviations beside it are left to onnx."""
    return [context.shapes.get(node.inputs[0]), *(None for _ in node.outputs[1:])]


def need_channels(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Each output of a row depends on the whole row; a constant that differs from place to place cannot leave."""
    name = node.inputs[0]
    ids, axis = context.ids(name), axis_of(node, context)
    live = np.broadcast_to(outputs[0].any(axis=axis, keepdims=True), np.broadcast_shapes(outputs[0].shape, ids.shape))
    if ids.size == ids.shape[axis] > 1:
        uneven = placed(node, context, np.isnan(constants_of(node, context)))
    else:
        uneven = np.full((1,) * ids.ndim, True)
    constant = fit_all(context.interval(name).constant, ids.shape)
    demand = Demand(live, live & uneven & constant, Reason.CONSTANT_VARIES, node.operator)
    return [demand, *(None for _ in node.inputs[1:])]
