"""LayerNormalization and RMSNormalization over channels and space together, as of torch.nn.LayerNorm([C, H, W]).

Each image is normalised as a whole, with a scale and a bias for each element. A channel leaves that is a constant and
that nothing needs behind the norm: what left counts in mean and variance by the formula of a `CompensatedLayerNorm`,
since all channels have equally many elements. Of a mean of squares each has its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxsqueeze.abstract.compact import Array, Bools, fit_all
from onnxsqueeze.abstract.interval import Interval, compact
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.normalization.channels import axis_of, keeps_shape, statistics_refusal
from onnxsqueeze.operators.normalization.compensated import Narrowed, compute_definition
from onnxsqueeze.operators.normalization.removed import Removed
from onnxsqueeze.operators.normalization.several_axes import parameters_refusal, whole_parameter
from onnxsqueeze.operators.normalization.writing import compute_mean
from onnxsqueeze.rules.channels import channel_constants, channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import operand_parameters
from onnxsqueeze.rules.rewriter import Rewriter

_CHANNELS = 1


def covers_images(node: Node, context: Context) -> bool:
    """Whether a norm over an axis and all behind it is one over the channels and space."""
    rank = context.rank(node.inputs[0])
    return rank > _CHANNELS + 1 and axis_of(node, context) == _CHANNELS


def _applies(node: Node, context: Context) -> Refusal | None:
    if refusal := statistics_refusal(node, context):
        return refusal
    if not isinstance(context.shape(node.inputs[0])[_CHANNELS], int):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} over several axes or one of unknown length")
    return parameters_refusal(node, context, context.rank(node.inputs[0]))


def _constants(node: Node, context: Context) -> npt.NDArray[np.float64]:
    """Return the value of each channel that is one constant everywhere, NaN elsewhere; [N]."""
    width = context.shape(node.inputs[0])[_CHANNELS]
    assert isinstance(width, int)
    return np.broadcast_to(channel_constants(context, node.inputs[0], _CHANNELS), (width,))


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """An element without scale is its bias."""
    scale, bias = np.broadcast_arrays(whole_parameter(node, context, 1, 1.0), whole_parameter(node, context, 2, 0.0))
    known = bias.astype(np.float64)
    lower, upper = (np.where(scale == 0, known, bound) for bound in (-np.inf, np.inf))
    return [compact(Interval(lower, upper))]


def _link(node: Node, context: Context) -> None:
    """Channels go on; along space nothing is told apart."""
    channel_ids(context, node.inputs[0], _CHANNELS)
    context.elements.ids[node.outputs[0]] = context.ids(node.inputs[0])


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """All of an image is read; a constant that differs from place to place cannot leave."""
    name, rank = node.inputs[0], context.rank(node.inputs[0])
    ids = context.ids(name)
    axes = tuple(range(_CHANNELS, rank))
    live = np.broadcast_to(outputs[0].any(axis=axes, keepdims=True), np.broadcast_shapes(ids.shape, (1,) * rank))
    uneven = np.isnan(_constants(node, context)).reshape((1, -1) + (1,) * (rank - 2)) if ids.size > 1 else True
    hold = live & fit_all(context.interval(name).constant, ids.shape) & uneven
    return [Demand(live, hold, Reason.CONSTANT_VARIES, node.operator), *(None for _ in node.inputs[1:])]


def _repair(node: Node, context: Context, rewriter: Rewriter, centred: bool) -> None:
    name, constants = node.inputs[0], _constants(node, context)
    kept = np.broadcast_to(rewriter.kept(name, _CHANNELS), constants.shape)
    if kept.all():
        return
    scale, bias = (
        _left(whole_parameter(node, context, position, default), kept).astype(rewriter.dtype(name))
        for position, default in ((1, 1.0), (2, 0.0))
    )
    epsilon, removed = float(node.attributes.get("epsilon", 1e-5)), Removed(kept, constants)
    axes = range(_CHANNELS, context.rank(name))
    if not centred:
        _divide_by_root_mean_square(node, rewriter, removed, epsilon, axes, scale)
        return
    unused = np.ones(len(kept))
    norm = Narrowed(node, context, rewriter, name, removed, None, unused, unused, epsilon, deferred=False)
    compute_definition(norm, axes, scale, bias if node.input(2) else None)


def _divide_by_root_mean_square(
    node: Node, rewriter: Rewriter, removed: Removed, epsilon: float, axes: Sequence[int], scale: Array
) -> None:
    """Write out the definition over the original width, in float32 at least."""
    data, own = node.inputs[0], rewriter.dtype(node.inputs[0])
    half = own.itemsize < 4
    kind = np.dtype(np.float32) if half else own
    source = rewriter.compute(node, "Cast", [data], to=TensorProto.FLOAT) if half else data
    mean = compute_mean(rewriter, node, rewriter.compute(node, "Mul", [source, source]), *axes)
    rest = epsilon + float(removed.values @ removed.values) / removed.width
    present = rewriter.compute(node, "Mul", [mean, np.asarray(removed.share, kind)])
    root = rewriter.compute(node, "Sqrt", [rewriter.compute(node, "Add", [present, np.asarray(rest, kind)])])
    unit = rewriter.compute(node, "Div", [source, root])
    if half:
        unit = rewriter.compute(node, "Cast", [unit], to=helper.np_dtype_to_tensor_dtype(own))
    rewriter.replace(node, "Mul", [unit, scale])


def _left(parameter: Array, kept: Bools) -> Array:
    """Return what is left of a parameter with all axes, without those of length 1 in front."""
    left = parameter if parameter.shape[_CHANNELS] == 1 else np.compress(kept, parameter, axis=_CHANNELS)
    return left.reshape(left.shape[_CHANNELS:])


def over_images(op: str, centred: bool) -> OpRule:
    """Return the rule of a norm with or without a mean, where it `covers_images`."""
    return OpRule(
        op,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=_need,
        repair=partial(_repair, centred=centred),
        infer=keeps_shape,
        parameters=operand_parameters(Role.SUMMAND if centred else Role.FACTOR),
    )
