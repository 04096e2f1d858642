"""Slicing a linear node's weight and bias, and folding what removed constants contributed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, Floats, fits
from onnxsqueeze.coupling.constraints import choose_representatives
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.bounds import read_constants
from onnxsqueeze.operators.linear.coded import integer_scale, rebias_codes, shifted
from onnxsqueeze.operators.linear.narrowed import narrowed, select, widen, widen_groups
from onnxsqueeze.operators.linear.stand_ins import constants_of, stand_in
from onnxsqueeze.operators.linear.view import constants
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.kept import Kept
from onnxsqueeze.rules.lessons import FoldOverflow, Lesson, NotACode
from onnxsqueeze.rules.reconstruction import Reconstruction
from onnxsqueeze.rules.rewriter import Offset, Rewriter
from onnxsqueeze.rules.weight_source import codes_of
from onnxsqueeze.rules.weight_view import Linear


def repair(node: Node, context: Context, rewriter: Rewriter, linear: Linear, kept_out: Bools | None = None) -> None:
    """Slice the weight and the bias; fold what the removed constants contributed.

    ``kept_out`` [groups, out] says which outputs stay where those are not the node's own (queries inside Attention).

    Raises:
        FoldOverflow: names the removed constant that contributes most, if the data type cannot hold the sum.
    """
    kept_in = linear.per_group(rewriter.kept(linear.data, linear.data_axis), False)
    if kept_out is None:
        kept_out = linear.per_group(rewriter.kept(node.outputs[0], linear.output_axis), True)
    part = rewriter.plan.narrowings.get(node.index)
    values = np.where(kept_in, 0.0, np.nan_to_num(constants(linear, context)))
    reconstruction = rewriter.deferred_reconstruction(linear.data)
    if reconstruction is not None:
        values = reconstruction.offset[None].copy()
    taken = rewriter.deferred_offset(linear.data)
    removed = np.where(kept_in, 0.0, values)
    blame = partial(_heaviest, linear, removed) if taken is None or removed.any() else taken.lesson
    linear, values = _with_stand_ins(node, context, linear, kept_in, kept_out, values)
    made, read = _computing(linear, kept_out, kept_in)
    _reweight(node, context, rewriter, linear, made, read, values, blame)
    if taken is not None:
        values[kept_in] = np.broadcast_to(taken.vector, (int(kept_in.sum()),))
    rebias = taken is not None or reconstruction is not None or rewriter.plan.drops_summand(node.index)
    if rebias or not (kept_in.all() and kept_out.all()):
        shift = np.zeros(kept_out.shape) if linear.zero_padded else shifted(linear, values)
        onward = partial(FoldOverflow, linear.data) if removed.any() else blame  # who takes it up knows no channels
        _rebias(node, context, rewriter, linear, kept_out, Offset(linear.output_axis, shift, onward), values, blame)
    select(node, context, rewriter, linear, read.ravel(), kept_in.ravel())
    widen_groups(node, context, rewriter, linear, made[kept_out])
    if part is not None:
        select(node, context, rewriter, linear, part.columns, kept_in[0])
        widen(node, context, rewriter, linear, part, kept_out[0])


def _computing(linear: Linear, kept_out: Bools, kept_in: Bools) -> tuple[Bools, Bools]:
    """Return what the layer makes and reads of what stays: of groups that keep nothing on one side nothing.

    A group that reads nothing makes constants: what its bias is, once all that leaves is folded.
    """
    if linear.groups == 1:
        return kept_out, kept_in
    computing = kept_out.any(axis=1, keepdims=True) & kept_in.any(axis=1, keepdims=True)
    return kept_out & computing, kept_in & computing


def _with_stand_ins(
    node: Node, context: Context, linear: Linear, kept_in: Bools, kept_out: Bools, values: Floats
) -> tuple[Linear, Floats]:
    """Let constants that stay do what those did that left, where no bias can; what is left to fold is 0 then.

    Raises:
        NotACode: where they cannot, naming all those that left.
    """
    found = constants_of(node, context, linear) if values.any() else None
    if found is None:
        return linear, values
    matrix = stand_in(linear, found, kept_in, kept_out)
    if matrix is None:
        size = linear.matrix.shape[2]
        raise NotACode(
            linear.data, [(linear.data_axis, int(group * size + place)) for group, place in np.argwhere(values)]
        )
    return replace(linear, matrix=matrix), np.zeros_like(values)


def _heaviest(linear: Linear, removed: Floats) -> Lesson:
    """Blame the removed constant that contributes most; without any it is all that the layer reads.

    ``removed`` [groups, in] holds the constants that leave, 0 elsewhere: nothing is won by keeping what stays anyway.
    """
    if not removed.any():
        return FoldOverflow(linear.data)
    heaviest = np.abs(linear.matrix.astype(np.float64) * removed[:, None, :, None]).max(axis=(1, 3)).argmax()
    return FoldOverflow(linear.data, (linear.data_axis, int(heaviest)))


def _reconstructing(
    linear: Linear, reconstruction: Reconstruction, rewriter: Rewriter, blame: Callable[[], Lesson]
) -> Linear:
    """Let the representatives' columns do what those of the other channels did through them."""
    columns = reconstruction.folded(linear.matrix)
    rewriter.check_finite(columns, linear.matrix.dtype, blame)
    matrix = linear.matrix.copy()
    matrix[:, :, reconstruction.representatives] = columns.astype(matrix.dtype)
    return replace(linear, matrix=matrix)


def _reweight(
    node: Node,
    context: Context,
    rewriter: Rewriter,
    linear: Linear,
    kept_out: Bools,
    kept_in: Bools,
    values: Floats,
    blame: Callable[[], Lesson],
) -> None:
    """Slice the weight, and let it do what removed channels did through those that stand for them."""
    reconstruction, part = rewriter.deferred_reconstruction(linear.data), rewriter.plan.narrowings.get(node.index)
    if reconstruction is not None:
        linear = _reconstructing(linear, reconstruction, rewriter, blame)
    if reconstruction is None and part is None and kept_out.all() and kept_in.all():
        return
    weight = _sliced(linear.matrix, kept_out, kept_in)
    if linear.zero_padded:
        weight = _behind_representative(node, linear, context, kept_out, kept_in, values, weight)
    if part is not None:
        weight = narrowed(node, rewriter, weight, part, kept_in[0], kept_out[0])
    rewriter.check_finite(weight, linear.matrix.dtype, blame)
    array = linear.restore(weight.astype(linear.matrix.dtype, copy=False))
    kept = (kept_out, kept_in) if part is None else (part.rows[None], part.columns[None])
    rewriter.set_constant(node, linear.position, array, _kept(linear, array.ndim, *kept))
    if linear.groups > 1:
        rewriter.set_attribute(node, "group", int(kept_out.any(axis=1).sum()))


def _kept(linear: Linear, rank: int, kept_out: Bools, kept_in: Bools) -> Kept | None:
    """Return what stays along each axis of the weight as it is stored; None where groups keep parts of their own."""
    if linear.groups > 1 or linear.is_table:
        return None
    along = {linear.stored_axis(1): kept_out[0], linear.stored_axis(2): kept_in[0]}
    return tuple(along.get(axis) for axis in range(rank))


def _sliced(matrix: Array, kept_out: Bools, kept_in: Bools) -> Array:
    """Return the kept part [groups, out, in, taps]; each kept group keeps equally many of its own."""
    groups = np.nonzero(kept_out.any(axis=1))[0]
    if len(matrix) == 1:
        return _compressed(matrix, {1: kept_out[0], 2: kept_in[0]})
    out, inner = (np.nonzero(kept[groups])[1].reshape(len(groups), -1) for kept in (kept_out, kept_in))
    return matrix[groups[:, None, None], out[:, :, None], inner[:, None, :]]


def _compressed(array: Array, kept: Mapping[int, Bools]) -> Array:
    """Return what is kept along some axes, in the order of memory, so that it need not be copied once more."""
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    part = array.transpose(order)
    for axis, mask in kept.items():
        if not mask.all():
            part = np.compress(mask, part, axis=order.index(axis))
    compressed: Array = part.transpose(np.argsort(order))
    return compressed


def _behind_representative(
    node: Node, linear: Linear, context: Context, kept_out: Bools, kept_in: Bools, values: Floats, weight: Array
) -> Array:
    """Let one kept constant channel of each group stand for the removed ones: W[:, r] += sum W[:, j] c_j / c_r.

    Raises:
        FoldOverflow: when a group has none that can.
    """
    if not values.any():
        return weight
    all_values = read_constants(linear, node, context)
    chosen = choose_representatives(kept_in, all_values)
    weight = weight.astype(np.float64)
    for place, group in enumerate(np.nonzero(kept_out.any(axis=1))[0]):
        columns = np.nonzero(values[group] * all_values[group])[0]
        if not columns.size:
            continue
        if chosen[group] < 0:
            raise FoldOverflow(linear.data)  # nobody is large enough to stand for them
        part = linear.matrix[group][kept_out[group]][:, columns].astype(np.float64)
        ratios = values[group, columns] / all_values[group, chosen[group]]
        target = int(kept_in[group, : chosen[group]].sum())
        weight[place, :, target] += np.einsum("oct,c->ot", part, ratios)
    return weight


def _rebias(
    node: Node,
    context: Context,
    rewriter: Rewriter,
    linear: Linear,
    kept_out: Bools,
    folded: Offset,
    values: Floats,
    blame: Callable[[], Lesson],
) -> None:
    """Slice the bias and add what was folded, in float64, cast once; or do without, if what is added is cancelled."""
    if node.index in rewriter.plan.cancelled:
        rewriter.drop_inputs(node, [position for position in [rewriter.plan.cancelled[node.index]] if position >= 0])
        return
    shift = folded.vector[kept_out]
    if linear.zero_bias:
        rewriter.drop_inputs(node, [linear.bias_position])
    part = rewriter.plan.narrowings.get(node.index)
    computed = kept_out if part is None else kept_out & part.rows
    if shift.any() and rebias_codes(node, context, rewriter, linear, computed, values, blame):
        return
    if not linear.bias:
        if shift.any():
            if linear.bias_scale != 1:
                rewriter.set_attribute(node, "beta", 1.0)  # it multiplied nothing before
            rewriter.offset(node, replace(folded, vector=shift), linear.bias_position, linear.matrix.dtype)
        return
    bias = np.asarray(context.value(linear.bias))
    position = node.inputs.index(linear.bias, 2)
    moved = shift / linear.bias_scale if linear.bias_scale else shift
    if linear.bias_scale == 0 and shift.any():
        rewriter.set_attribute(node, "beta", 1.0)
        bias = np.zeros_like(bias)
    wide = bias.ndim > 0 and bias.shape[-1] > 1
    if not moved.any() and (not wide or kept_out.all()):
        return
    sliced = bias[..., kept_out.ravel()] if wide else bias
    total = sliced.astype(np.float64) + moved if moved.any() else sliced
    rewriter.check_finite(total, bias.dtype, blame)
    rewriter.set_constant(node, position, total.astype(bias.dtype, copy=False))


def absorbs(linear: Linear, node: Node, position: int, axis: int) -> bool:
    """A vector on the inputs becomes one on the outputs, where all positions see all taps."""
    return node.inputs[position] == linear.data and axis == linear.data_axis and not linear.zero_padded


def reconstructs(linear: Linear, node: Node, position: int, axis: int) -> bool:
    """A reconstruction of channels is taken up by the weights, where all of them are read through one matrix."""
    return absorbs(linear, node, position, axis) and linear.one_matrix


def adopt(node: Node, context: Context, rewriter: Rewriter, linear: Linear, axis: int, vector: Floats) -> bool:
    """Add a vector to the outputs through the bias that the node has by now."""
    if integer_scale(context, linear) is not None or (linear.bias and codes_of(context, linear.bias) is not None):
        return False
    bias = rewriter.constant_at(node, linear.bias_position) if linear.bias_position >= 0 else None
    scale = linear.bias_scale if linear.bias else 1.0
    part = rewriter.plan.narrowings.get(node.index)
    if part is not None and part.shared_zero_row >= 0:
        return False  # the bias behind it is of another width
    if bias is None or axis != linear.output_axis or not scale or bias.ndim > 1:
        return False
    if linear.groups > 1 and bias.size != len(vector):
        return False  # groups that make constants are put beside it behind the layer
    total = bias.astype(np.float64) + vector / scale
    if not fits(total, bias.dtype):
        return False
    rewriter.set_constant(node, linear.bias_position, total.astype(bias.dtype))
    return True
