"""A layer whose weight has rows or columns of zeros, between tensors that stay whole: it computes with the others only.

Columns: the channels that it reads are gathered in front of it. Rows: one row of zeros stays and stands for all of
them, so that a Gather behind the layer brings its output back to its width; biases that differ there are added then.
"""

from __future__ import annotations

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, any_along
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.plan import Narrowing
from onnxsqueeze.rules.queries import counted_by
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.weight_source import decoder_of, encoder_of, held
from onnxsqueeze.rules.weight_view import Linear


def narrowed(node: Node, rewriter: Rewriter, weight: Array, part: Narrowing, kept_in: Bools, kept_out: Bools) -> Array:
    """Return the part of a weight [1, out, in, taps], of what stays, that the layer computes with.

    Where a norm lost channels, or a padded convolution did, others stand for them. Their columns may be no zeros then,
    and what the layer uses is noted for another plan.
    """
    rows, columns = part.rows[kept_out], part.columns[kept_in]
    empty = ~rows
    if part.shared_zero_row >= 0:
        empty[np.count_nonzero(kept_out[: part.shared_zero_row])] = True
    if weight[:, empty].any() or weight[:, :, ~columns].any():
        used_in, used_out = kept_in.copy(), kept_out.copy()
        used_in[kept_in], used_out[kept_out] = any_along(weight != 0, (0, 1, 3)), any_along(weight != 0, (0, 2, 3))
        rewriter.note_nonzero(node, used_in, used_out)
    return weight[:, rows][:, :, columns]


def select(node: Node, context: Context, rewriter: Rewriter, linear: Linear, columns: Bools, kept: Bools) -> None:
    """Let a layer read only the ``columns`` that it needs, of those that stay in its data; [channels].

    Of data that is decoded for the layer it is codes that are gathered, so that the layer still reads decoded ones. Of
    codes that are `held` it is what they stand for, which is encoded again: runtimes see that this moves codes.
    """
    if (columns == kept).all():
        return
    places, position = np.flatnonzero(columns[kept]), node.inputs.index(linear.data)
    decoding = decoder_of(context, linear.data)
    if decoding is None:
        rewriter.select(node, position, places, linear.data_axis)
        return
    if held(context, decoding):
        real = rewriter.compute(node, "Gather", [linear.data, places], axis=linear.data_axis)
        gathered = rewriter.compute(node, "QuantizeLinear", [real, *_scaled(decoding)], domain=decoding.domain)
    else:
        gathered = rewriter.compute(node, "Gather", [decoding.inputs[0], places], axis=linear.data_axis)
    rewriter.insert_before(node, position, decoding.op, [gathered, *decoding.inputs[1:]], domain=decoding.domain)


def widen(node: Node, context: Context, rewriter: Rewriter, linear: Linear, part: Narrowing, kept: Bools) -> None:
    """Bring the output back to the width that stays of it; where biases of the rows of zeros differ, add them there.

    What is encoded at once comes back as codes, so that runtimes still compute the layer in integers; see `select`.
    """
    if part.shared_zero_row < 0:
        return
    rows, standing = part.rows[kept], int(np.count_nonzero(kept[: part.shared_zero_row]))
    last = counted_by(context, node.outputs[0]) or encoder_of(context, node.outputs[0]) or node
    bias = rewriter.constant_at(node, linear.bias_position) if linear.bias_position >= 0 else None
    if bias is not None and bias.ndim and bias.shape[-1] == len(rows):
        empty = ~rows
        empty[standing] = True
        if (bias[..., empty] != bias[..., standing : standing + 1]).any():
            scale = linear.bias_scale if linear.bias else 1.0
            added = np.where(empty, bias.astype(np.float64) * scale, 0.0).astype(bias.dtype)
            behind = context.rank(node.outputs[0]) - 1 - linear.output_axis
            rewriter.insert_after(node, "Add", [None, added.reshape(-1, *(1,) * behind)])
            bias, last = np.where(empty, np.zeros((), bias.dtype), bias), node
        rewriter.set_constant(node, linear.bias_position, bias[..., rows])
    places = np.where(rows, np.cumsum(rows) - 1, np.count_nonzero(rows[:standing]))
    if held(context, last):
        rewriter.insert_after(last, "QuantizeLinear", [None, *_scaled(last)], domain=last.domain)
    rewriter.insert_after(last, "Gather", [None, places], axis=linear.output_axis)
    if held(context, last):
        rewriter.insert_after(last, "DequantizeLinear", [None, *_scaled(last)], domain=last.domain)


def _scaled(node: Node) -> list[str | Array]:
    """Return the scale and the zero point with which int8 is encoded and decoded."""
    return [node.inputs[1], node.input(2) or np.zeros((), np.int8)]


def widen_groups(node: Node, context: Context, rewriter: Rewriter, linear: Linear, there: Bools) -> None:
    """Put the constants of groups that read nothing beside what the others make.

    ``there`` [channels] says for each channel that stays of the output whether the layer makes it.
    """
    if there.all():
        return
    axis, rank = linear.output_axis, context.rank(node.outputs[0])
    bias = rewriter.constant_at(node, linear.bias_position) if linear.bias_position >= 0 else None
    if bias is not None:
        if bias[~there].any():
            added = np.where(there, np.zeros((), bias.dtype), bias)
            rewriter.insert_after(node, "Add", [None, added.reshape(-1, *(1,) * (rank - 1 - axis))])
        rewriter.set_constant(node, linear.bias_position, bias[there])
    first, last = np.flatnonzero(there)[[0, -1]]
    beside = (first, len(there) - 1 - last)
    if not there[first : last + 1].all():
        beside = (0, 1)
        rewriter.insert_after(node, "Gather", [None, np.where(there, np.cumsum(there) - 1, there.sum())], axis=axis)
    pads = np.zeros((2, rank), np.int64)
    pads[:, axis] = beside
    rewriter.insert_after(node, "Pad", [None, pads.ravel()])
