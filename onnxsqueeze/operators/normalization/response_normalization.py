"""Global response normalization, as ConvNeXt V2 has it, over a part of its channels; exporters spell it out.

With the norm n_i of channel i over space and m the mean of the norms of all N channels, it makes
``y_i = x_i + bias_i + weight_i x_i n_i / (m + epsilon)``. A channel that is the constant c_j has the norm ``|c_j| s``,
where s, the root of the area, is one number for each image. So the norm of one representative r that stays gives what
the removed ones added to the mean, and what each of them became:

    N m = sum of the n_i that are left + n_r / |c_r| sum |c_j|
    y_j = bias_j + c_j + weight_j c_j |c_j| / (c_r |c_r|) (c_r n_r / (m + epsilon))

Zeros need none: the mean over K channels is N / K times the mean over N, which goes into weight and epsilon.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Bools, Floats, all_finite, fit_all
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.constraints import Representative, choose_representatives
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import PATTERN_DOMAIN, RESPONSE_NORM, Node
from onnxsqueeze.operators.normalization.channels import (
    along_axis,
    axis_of,
    constants_of,
    keeps_shape,
    parameter,
    width_of,
)
from onnxsqueeze.operators.normalization.writing import compute_mean, compute_norm
from onnxsqueeze.rules.channels import channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.lessons import FoldOverflow, KeepWhole
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import operand_parameters
from onnxsqueeze.rules.queries import absorbed_by_readers, constant_vector
from onnxsqueeze.rules.reconstruction import Reconstruction
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter


def _space(node: Node, context: Context) -> list[int]:
    """Return the axes over which each channel's norm is taken."""
    return [int(axis) % context.rank(node.inputs[0]) for axis in node.attributes["space"]]


def _applies(node: Node, context: Context) -> Refusal | None:
    axis, name, width = axis_of(node, context), node.inputs[0], width_of(node, context)
    if width is None or axis in _space(node, context):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} over axes of unknown length")
    for given in node.inputs[1:3]:
        vector, shape = constant_vector(context, given), context.shape(given)
        rank = context.rank(name)
        if vector is None or not all_finite(vector):
            return Refusal(Reason.NOT_FINITE if vector is not None else Reason.COMPUTED_WEIGHT, given)
        if vector.size not in (1, width) or (vector.size > 1 and shape[axis - rank] != width):
            return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with parameters of another shape")
    return None


def _whole(node: Node, context: Context) -> bool:
    """Whether the output is wanted whole, so that no constant but 0 can leave."""
    return node.outputs[0] in context.graph.outputs or node.outputs[0] in context.learned.whole


def _unchanged(node: Node, context: Context) -> Bools:
    """Return the constant channels to which nothing but the bias is added."""
    constants = constants_of(node, context)
    return np.asarray((parameter(node, context, 1, 1.0) * constants == 0) & ~np.isnan(constants))


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """What another constant became follows from a representative."""
    constants, fixed = constants_of(node, context), _unchanged(node, context)
    known = np.where(fixed, constants + parameter(node, context, 2, 0.0), np.nan)
    lower, upper = (np.where(fixed, known, bound) for bound in (-np.inf, np.inf))
    reconstructible = None if _whole(node, context) else along_axis(node, context, ~np.isnan(constants))
    return [Interval(along_axis(node, context, lower), along_axis(node, context, upper), reconstructible)]


def _link(node: Node, context: Context) -> None:
    """Channels go on; where some that are no 0 leave, one of them stays."""
    name, read = node.inputs[0], np.nan_to_num(constants_of(node, context))
    ids = channel_ids(context, name, axis_of(node, context))
    context.elements.ids[node.outputs[0]] = context.ids(name)
    if ids.size > 1 and read.any() and not _whole(node, context):
        context.elements.constraints.append(Representative(name, ids.reshape(1, -1), read[None]))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """The mean reads all channels; a constant that differs from place to place cannot leave."""
    name, axis = node.inputs[0], axis_of(node, context)
    ids, constants = context.ids(name), constants_of(node, context)
    live = np.broadcast_to(outputs[0].any(axis=axis, keepdims=True), np.broadcast_shapes(outputs[0].shape, ids.shape))
    constant, uneven = fit_all(context.interval(name).constant, ids.shape), np.isnan(constants)
    if ids.size == 1:
        uneven = np.full(1, True)
    elif _whole(node, context):
        uneven = uneven | (constants != 0)
    hold = live & constant & along_axis(node, context, uneven)
    return [Demand(live, hold, Reason.CONSTANT_VARIES, node.operator), *(None for _ in node.inputs[1:])]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    name, output, width = node.inputs[0], node.outputs[0], width_of(node, context)
    assert width is not None
    kept = np.broadcast_to(rewriter.kept(name, axis_of(node, context)), (width,))
    if kept.all():
        return
    constants = np.nan_to_num(constants_of(node, context))
    weight, bias = (parameter(node, context, *which).copy() for which in ((1, 1.0), (2, 0.0)))
    chosen = int(choose_representatives(kept[None], constants[None])[0])
    live = np.broadcast_to(rewriter.live(output).ravel(), (width,))
    if (live & ~kept & (weight * constants != 0)).any():
        if not absorbed_by_readers(context, output, axis_of(node, context), deferred=True):
            raise KeepWhole(output)
        found = _reconstruction(axis_of(node, context), kept, constants, weight, bias, chosen)
        rewriter.defer_reconstruction(output, found)
        weight[chosen], bias[chosen] = 1.0, -constants[chosen]
    growth, removed = width / float(kept.sum()), float(np.abs(constants[~kept]).sum())
    epsilon, scaled = float(node.attributes["epsilon"]) * growth, weight * growth
    rewriter.check_finite(scaled[kept], rewriter.dtype(name), partial(FoldOverflow, name))
    if not removed:
        _rescale(node, context, rewriter, epsilon, kept, (scaled, bias))
        return
    share = removed / abs(constants[chosen]) / float(kept.sum())
    beside = int(kept[:chosen].sum()), share
    _write(node, context, rewriter, epsilon, beside, scaled[kept], bias[kept])


def _rescale(
    node: Node, context: Context, rewriter: Rewriter, epsilon: float, kept: Bools, parameters: Sequence[Floats]
) -> None:
    """Where nothing but zeros leaves, the nodes stay as they were written, with other numbers."""
    rewriter.set_attribute(node, "epsilon", epsilon)
    for position, vector in enumerate(parameters, start=1):
        array = np.asarray(context.value(node.inputs[position]))
        entries = vector[:1] if array.size == 1 else vector[kept]
        shape = [length if length == 1 else -1 for length in array.shape]
        rewriter.set_constant(node, position, entries.astype(array.dtype).reshape(shape))


def _reconstruction(
    axis: int, kept: Bools, constants: Floats, weight: Floats, bias: Floats, chosen: int
) -> Reconstruction:
    """Every constant's output follows from the representative's, which is written as its normalized value alone."""
    own = kept.copy()
    own[chosen] = False
    squares = constants * np.abs(constants)
    share = np.where(own, 0.0, weight * squares / squares[chosen])
    return Reconstruction(axis, np.array([chosen]), np.where(own, 0.0, bias + constants), own, share[:, None])


def _write(
    node: Node,
    context: Context,
    rewriter: Rewriter,
    epsilon: float,
    beside: tuple[int, float],
    weight: Floats,
    bias: Floats,
) -> None:
    """Spell it out as exporters do, in float32 at least.

    Args:
        beside: which of the channels that are left stands for those that are not, and how much of its norm their norms
            add to the mean.
    """
    name, dtype = node.inputs[0], rewriter.dtype(node.inputs[0])
    half = dtype.itemsize < np.dtype(np.float32).itemsize
    kind = np.dtype(np.float32) if half else dtype

    def placed(vector: Any) -> Any:
        return along_axis(node, context, vector).astype(kind)

    data: Any = rewriter.compute(node, "Cast", [name], to=1) if half else name
    norm = compute_norm(rewriter, node, data, _space(node, context))
    axis = axis_of(node, context)
    own = rewriter.compute(node, "Gather", [norm, np.array([beside[0]])], axis=axis)
    others = rewriter.compute(node, "Mul", [own, np.asarray(beside[1], dtype=kind)])
    mean = rewriter.compute(node, "Add", [compute_mean(rewriter, node, norm, axis), others])
    divisor = rewriter.compute(node, "Add", [mean, np.asarray(epsilon, dtype=kind)])
    ratio = rewriter.compute(node, "Div", [norm, divisor])
    scaled = rewriter.compute(node, "Mul", [rewriter.compute(node, "Mul", [data, ratio]), placed(weight)])
    operands = [rewriter.compute(node, "Add", [scaled, placed(bias)]), data]
    if half:
        rewriter.replace(node, "Cast", [rewriter.compute(node, "Add", operands)], to=context.dtypes[name])
    else:
        rewriter.replace(node, "Add", operands)


register(
    OpRule(
        RESPONSE_NORM,
        PATTERN_DOMAIN,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
        infer=keeps_shape,
        parameters=operand_parameters(Role.FACTOR),
    )
)
