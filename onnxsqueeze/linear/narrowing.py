"""A layer whose weight has rows or columns of zeros, between tensors that stay whole: it computes with the others only.

Columns: the channels that it reads are gathered in front of it. Rows: one row of zeros stays and stands for all of
them, so that a Gather behind the layer brings its output back to its width; biases that differ there are added then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxsqueeze.fact import Bools, any_along
from onnxsqueeze.graph import ONNX_DOMAIN, Node
from onnxsqueeze.linear.bounds import nonzero
from onnxsqueeze.linear.view import Linear
from onnxsqueeze.rule import Array, Context

if TYPE_CHECKING:
    from onnxsqueeze.editor import Editor

Used = tuple[Bools, Bools]
"""The columns [in] and the rows [out] of a weight that are no zeros."""

_FIRST_WITH_INTEGER_CONSTANTS = 9  # the opset since which a Constant can hold them


@dataclass(frozen=True)
class Narrowing:
    """The part of its weight that a layer without groups computes with, of what the tensors around it leave of that.

    Attributes:
        columns: the channels that it reads [in], among those that stay in the data.
        rows: the outputs that it computes [out], among those that stay.
        standing: the output, a row of zeros, that is computed for all that are not; -1 if all are.
    """

    columns: Bools
    rows: Bools
    standing: int = -1


@dataclass(frozen=True)
class Candidate:
    """A layer with rows or columns of zeros between tensors that stay.

    Attributes:
        linear: the layer.
        narrowest: the least that it can compute with.
        kept_in, kept_out: the channels that stay in what it reads and makes; [in] and [out].
        last: whether the channels that it reads, and those that it makes, lie along the last axis.
    """

    linear: Linear
    narrowest: Narrowing
    kept_in: Bools
    kept_out: Bools
    last: tuple[bool, bool]

    @property
    def zeros(self) -> int:
        """The number of rows and columns that the narrowest part does without."""
        left = self.narrowest.columns.sum() + self.narrowest.rows.sum()
        return int(self.kept_in.sum() + self.kept_out.sum() - left)

    def like(self, other: Candidate) -> bool:
        """Whether the same of one weight is left here and there, and the same of it would do."""
        pairs = (
            (self.kept_in, other.kept_in),
            (self.kept_out, other.kept_out),
            (self.narrowest.columns, other.narrowest.columns),
            (self.narrowest.rows, other.narrowest.rows),
        )
        return self.last == other.last and all(np.array_equal(left, right) for left, right in pairs)


def zeros_of(
    node: Node, context: Context, linear: Linear, kept_in: Bools, kept_out: Bools, used: Used | None = None
) -> Narrowing | None:
    """Return the narrowest part of a weight that does; None if that is all that stays.

    Layers in groups are left alone, a Gemm whose beta mutes its bias, and models too old for indices in a Constant.

    Args:
        node, context, linear: the layer.
        kept_in, kept_out: which channels stay in the tensors that it reads and makes; [groups, in] and [groups, out].
        used: the columns and rows that are no zeros, where that is known better than from the file.
    """
    if linear.groups > 1 or linear.bias_scale == 0 or not kept_out.any() or not kept_in.any():
        return None
    if context.graph.opsets.get(ONNX_DOMAIN, 0) < _FIRST_WITH_INTEGER_CONSTANTS:
        return None
    inner, outer = kept_in[0], kept_out[0]
    if used is None:
        reads = nonzero(linear, node, context)[0]
        used = (
            any_along(reads if outer.all() else reads[outer], 0),
            any_along(reads if inner.all() else reads & inner, 1),
        )
    columns, rows = used[0] & inner, used[1] & outer
    if not columns.any():
        columns[np.argmax(inner)] = True
    empty = outer & ~rows
    first = int(np.argmax(empty)) if np.count_nonzero(empty) > 1 and not _is_table(linear, context) else -1
    if first < 0:
        rows = outer
    else:
        rows[first] = True
    return None if (columns == inner).all() and first < 0 else Narrowing(columns, rows, first)


def _is_table(linear: Linear, context: Context) -> bool:
    """Whether the bias differs from place to place, so that to store some of it twice would cost more than a vector."""
    shape = context.shape(linear.bias) if linear.bias else ()
    return any(length != 1 for length in shape[:-1])


def narrowed(node: Node, editor: Editor, weight: Array, part: Narrowing, kept_in: Bools, kept_out: Bools) -> Array:
    """Return the part of a weight [1, out, in, taps], of what stays, that the layer computes with.

    Where a norm lost channels, or a padded convolution did, others stand for them. Their columns may be no zeros then,
    and what the layer uses is noted for another plan.
    """
    rows, columns = part.rows[kept_out], part.columns[kept_in]
    empty = ~rows
    if part.standing >= 0:
        empty[np.count_nonzero(kept_out[: part.standing])] = True
    if weight[:, empty].any() or weight[:, :, ~columns].any():
        used_in, used_out = kept_in.copy(), kept_out.copy()
        used_in[kept_in], used_out[kept_out] = any_along(weight != 0, (0, 1, 3)), any_along(weight != 0, (0, 2, 3))
        editor.used[node.index] = used_in, used_out
    return weight[:, rows][:, :, columns]


def select(node: Node, editor: Editor, linear: Linear, part: Narrowing, kept: Bools) -> None:
    """Let a layer read only the channels that it needs, of those that stay in its data [in]."""
    if (part.columns != kept).any():
        places = np.flatnonzero(part.columns[kept])
        editor.select(node, node.inputs.index(linear.data), places, linear.data_axis)


def widen(node: Node, editor: Editor, linear: Linear, part: Narrowing, kept: Bools) -> None:
    """Bring the output back to the width that stays of it; where biases of the rows of zeros differ, add them there."""
    if part.standing < 0:
        return
    rows, standing = part.rows[kept], int(np.count_nonzero(kept[: part.standing]))
    bias = editor.constant_at(node, linear.bias_position) if linear.bias_position >= 0 else None
    if bias is not None and bias.ndim and bias.shape[-1] == len(rows):
        empty = ~rows
        empty[standing] = True
        if (bias[..., empty] != bias[..., standing : standing + 1]).any():
            scale = linear.bias_scale if linear.bias else 1.0
            added = np.where(empty, bias.astype(np.float64) * scale, 0.0).astype(bias.dtype)
            behind = editor.context.rank(node.outputs[0]) - 1 - linear.output_axis
            editor.insert_after(node, "Add", [None, added.reshape(-1, *(1,) * behind)])
            bias = np.where(empty, np.zeros((), bias.dtype), bias)
        editor.set_constant(node, linear.bias_position, bias[..., rows])
    places = np.where(rows, np.cumsum(rows) - 1, np.count_nonzero(rows[:standing]))
    editor.insert_after(node, "Gather", [None, places], axis=linear.output_axis)
