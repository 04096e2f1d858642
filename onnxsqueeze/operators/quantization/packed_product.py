"""MatMulNBits of onnxruntime: ``A W'`` with rows of W as blocks of 2, 4 or 8 bits, each block with a scale.

W [N, K] is stored as bytes [N, blocks, bytes of a block], the first code in the lowest bits. A code q stands for
``(q - zero) * scale``, where zero is the middle of its range unless zero points are given: packed as the codes are, row
by row, or as numbers of the scales' type. Rows are sliced; columns leave with all that share their scales: in whole
blocks, or, where ``g_idx`` says whose scale each column has (GPTQ's act-order), in the groups that it makes, which need
not lie side by side. The columns that stay are packed anew then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.coded import shifted
from onnxsqueeze.operators.linear.narrowed import select, widen
from onnxsqueeze.operators.linear.rule import linear_rule, need
from onnxsqueeze.operators.linear.view import constants, linear_view
from onnxsqueeze.operators.quantization.packing import BYTE, repacked, unpacked
from onnxsqueeze.rules.contract import Context, Demand, Refusal
from onnxsqueeze.rules.lessons import FoldOverflow
from onnxsqueeze.rules.memo import per_node
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.parameters import along, placed
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Offset, Rewriter
from onnxsqueeze.rules.weight_view import Linear

_WEIGHT, _SCALES, _ZEROS, _ORDER, _BIAS = 1, 2, 3, 4, 5
_BITS = 4  # by default, and of all codes with an order of their own
_MIDDLE = 1 << (_BITS - 1)


@dataclass(frozen=True)
class _Packed:
    """The stored constants of a node, unpacked.

    Attributes:
        blocks: bytes [N, blocks, bytes of a block]. scales: [N, blocks]. zeros: [N, blocks], numbers or codes; None
            where there are none.
        size: of a block. bits: of a code. groups: whose scale each column has, [K].
    """

    blocks: Array
    scales: Array
    zeros: Array | None
    size: int
    bits: int
    groups: npt.NDArray[np.int64]

    @property
    def codes(self) -> Array:
        """Return the codes of W, [N, K]."""
        return unpacked(self.blocks, self.bits).reshape(len(self.blocks), -1)[:, : self.groups.size]

    @property
    def matrix(self) -> Array:
        """Return W [N, K] in the type of the scales."""
        middle = float(1 << (self.bits - 1))
        zeros = middle if self.zeros is None else self.zeros.astype(np.float64)[:, self.groups]
        real = (self.codes.astype(np.float64) - zeros) * self.scales.astype(np.float64)[:, self.groups]
        return np.asarray(real.astype(self.scales.dtype))

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """Return the first column of those that leave with each scale, [blocks]; 0 for a scale that none has.

        Stored are as many scales as the columns fill blocks. So that there are enough whatever leaves, all groups but
        one must fill a block; where they do not, all columns leave together.
        """
        groups, first, sizes = np.unique(self.groups, return_index=True, return_counts=True)
        found = np.zeros(self.scales.shape[1], np.int64)
        if (sizes < self.size).sum() <= 1:
            found[groups] = first
        return found


@per_node
def _packed(node: Node, context: Context) -> _Packed | Refusal:
    """Read the constants of a node."""
    weight, scales = (context.value(node.input(position)) for position in (_WEIGHT, _SCALES))
    zeros = context.value(node.input(_ZEROS)) if node.input(_ZEROS) else None
    if weight is None or scales is None or (zeros is None and node.input(_ZEROS)):
        return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
    bits, size = int(node.attributes.get("bits", _BITS)), int(node.attributes["block_size"])
    rows, columns = int(node.attributes["N"]), int(node.attributes["K"])
    count = -(-columns // size)
    if bits not in (2, 4, 8) or weight.dtype != np.uint8 or node.attributes.get("weight_prepacked", 0):
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} of {bits} bits, or packed for one processor")
    if weight.shape != (rows, count, size * bits // BYTE) or scales.size != rows * count:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    if zeros is not None:
        if zeros.dtype == np.uint8:
            zeros = unpacked(zeros.reshape(rows, -1), bits)[:, :count]
        if zeros.size != rows * count:
            return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
        zeros = zeros.reshape(rows, count)
    groups = _groups(node, context, zeros, np.arange(columns) // size)
    if isinstance(groups, Refusal):
        return groups
    return _Packed(weight, scales.reshape(rows, count), zeros, size, bits, groups)


def _groups(
    node: Node, context: Context, zeros: Array | None, blocks: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64] | Refusal:
    """Return whose scale each column has, given whose it has without an order of its own.

    onnxruntime reads an order for codes of 4 bits alone, and takes packed zero points for the middle then.
    """
    if not node.input(_ORDER):
        return blocks
    order = context.value(node.input(_ORDER))
    if order is None:
        return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
    middle = zeros is None or zeros.dtype != np.uint8 or (zeros == _MIDDLE).all()
    if int(node.attributes.get("bits", _BITS)) != _BITS or not middle:
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} with g_idx, which runtimes read differently")
    found = order.ravel()[: blocks.size].astype(np.int64)
    if found.size != blocks.size or not np.isin(found, blocks).all():
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return found


@linear_view
def _view(node: Node, context: Context) -> Linear | Refusal:
    found, rank = _packed(node, context), context.rank(node.inputs[0])
    if isinstance(found, Refusal):
        return found
    if not rank or context.shape(node.inputs[0])[-1] != found.groups.size:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return Linear(
        data=node.inputs[0],
        weight=node.inputs[_WEIGHT],
        bias=node.input(_BIAS),
        position=_WEIGHT,
        data_axis=rank - 1,
        output_axis=rank - 1,
        matrix=found.matrix[None, :, :, None],
        zero_padded=False,
        restore=lambda array: array[0, :, :, 0],
        bias_position=-1,
        together=found.first[found.groups],
    )


def _seen(node: Node, context: Context) -> tuple[Linear, _Packed]:
    linear, found = _view(node, context), _packed(node, context)
    assert isinstance(linear, Linear) and isinstance(found, _Packed)
    return linear, found


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    demands = need(node, context, _seen(node, context)[0], outputs)
    return [demand and replace(demand, folds=None) for demand in demands]  # no code stands for what others were


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice rows and blocks, and let a bias or a sum take up what removed constants added."""
    linear, found = _seen(node, context)
    inputs, outputs = (
        np.broadcast_to(rewriter.kept(name, linear.data_axis), (length,))
        for name, length in ((linear.data, found.groups.size), (node.outputs[0], len(found.blocks)))
    )
    values = np.where(inputs, 0.0, np.nan_to_num(constants(linear, context)[0]))
    taken = rewriter.deferred_offset(linear.data)
    if taken is not None:
        values[inputs] = np.broadcast_to(taken.vector, (int(inputs.sum()),))
    shift = shifted(linear, values[None])[0][outputs]
    part = rewriter.plan.narrowings.get(node.index)
    made, read = (outputs, inputs) if part is None else (part.rows, part.columns)
    if not (read.all() and made.all()):
        _slice(node, rewriter, found, made, read)
    bias = context.value(linear.bias) if linear.bias else None
    lesson = partial(FoldOverflow, linear.data) if taken is None else taken.lesson
    if bias is not None and (shift.any() or not outputs.all()):
        total = bias[outputs].astype(np.float64) + shift
        rewriter.check_finite(total, bias.dtype, lesson)
        rewriter.set_constant(node, _BIAS, total.astype(bias.dtype))
    elif bias is None and shift.any():
        rewriter.offset(node, Offset(linear.output_axis, shift, lesson), -1, rewriter.dtype(node.outputs[0]))
    if part is not None:
        select(node, context, rewriter, linear, read, inputs)
        widen(node, context, rewriter, replace(linear, bias_position=_BIAS if linear.bias else -1), part, outputs)


def _slice(node: Node, rewriter: Rewriter, found: _Packed, rows: Bools, columns: Bools) -> None:
    """Pack the codes that stay, and number the groups that are left."""
    left, groups = np.unique(found.groups[columns], return_inverse=True)
    count = -(-groups.size // found.size)
    left = np.concatenate([left, np.repeat(left[:1], count - left.size)])  # as many scales as blocks, read or not
    codes = np.zeros((int(rows.sum()), count * found.size), np.uint8)
    codes[:, : groups.size] = found.codes[rows][:, columns]
    rewriter.set_constant(node, _WEIGHT, repacked(codes, found.bits).reshape(len(codes), count, -1))
    _set(node, rewriter, _SCALES, found.scales[rows][:, left])
    stored = rewriter.constant_at(node, _ZEROS)
    if found.zeros is not None and stored is not None:
        zeros = found.zeros[rows][:, left]
        _set(node, rewriter, _ZEROS, repacked(zeros, found.bits) if stored.dtype == np.uint8 else zeros)
    if node.input(_ORDER):
        rewriter.set_constant(node, _ORDER, groups.astype(np.int32))
    rewriter.set_attribute(node, "N", len(codes))
    rewriter.set_attribute(node, "K", groups.size)


def _set(node: Node, rewriter: Rewriter, position: int, array: Array) -> None:
    """Store what each row has for each block as it was stored, in two dimensions or one after the other."""
    stored = rewriter.constant_at(node, position)
    assert stored is not None
    array = array.astype(stored.dtype)
    rewriter.set_constant(node, position, array if stored.ndim > 1 else array.reshape(-1))


def _parameters(node: Node, context: Context) -> list[Parameter]:
    """The bytes of the weight with its scales, and the bias."""
    linear, found = _seen(node, context)
    output, axis = node.outputs[0], linear.output_axis
    rows = along(context, output, axis)
    columns = along(context, linear.data, axis)
    blocks = columns[found.first] if columns.size > 1 else columns
    others = tuple(place for place in range(context.rank(output)) if place != axis)
    weight = (placed(rows, 3, 0), placed(blocks, 3, 1))
    listed = [Parameter(linear.weight, _WEIGHT, Role.WEIGHT, weight, (output, others), packed=BYTE // found.bits)]
    for position in (_SCALES, _ZEROS):
        if node.input(position):
            shape = context.shape(node.inputs[position])
            alone = len(shape) > 1 and shape[1] == len(found.first)  # else several share a byte, or rows follow another
            classes = (placed(rows, 2, 0), placed(blocks, 2, 1))[: 1 + alone] if len(shape) > 1 else ()
            listed.append(Parameter(node.inputs[position], position, Role.OPERAND, classes))
    if node.input(_ORDER):
        whole = context.shape(node.inputs[_ORDER]) == (found.groups.size,)  # else blocks are filled up
        listed.append(Parameter(node.inputs[_ORDER], _ORDER, Role.OPERAND, (columns,) if whole else ()))
    if linear.bias:
        listed.append(Parameter(linear.bias, _BIAS, Role.SUMMAND, (rows,)))
    return listed


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    shape = context.shapes.get(node.inputs[0])
    return [None if not shape else (*shape[:-1], int(node.attributes["N"]))]


register(
    replace(
        linear_rule("MatMulNBits", _view),
        domain="com.microsoft",
        infer=_infer,
        need=_need,
        repair=_repair,
        parameters=_parameters,
        reconstructs=None,
        adopts=None,
    )
)
