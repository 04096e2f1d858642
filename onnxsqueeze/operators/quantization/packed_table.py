"""GatherBlockQuantized of onnxruntime: rows of a table of blocks of 4 or 8 bits are looked up and decoded.

The table [rows, columns] is stored as codes, two in a byte (the first one in the lower bits) where their type is uint8
and they have 4 bits; each block of a row has a scale. A code q stands for ``(q - zero) * scale``; without zero points
that is the middle of the range for uint8, and 0 for types of 4 bits. Columns leave in whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx.helper import np_dtype_to_tensor_dtype

from onnxsqueeze.abstract.compact import Array, Bools, all_finite
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.quantization.packing import repacked, unpacked
from onnxsqueeze.rules.codes import first_of_block, limits
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.memo import per_node, refusal_of, view_or_error
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.parameters import along, placed
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter

_TABLE, _ROWS, _SCALES, _ZEROS = range(4)
_BITS, _BLOCK = 4, 128  # by default


@dataclass(frozen=True)
class _Table:
    """The stored constants of a node.

    Attributes:
        codes: [rows, columns], unpacked. scales: [rows, blocks]. zeros: likewise, None where there are none.
        block: the columns of a block. bits: of a code if several share a byte, else 0. middle: what is 0 without zeros.
    """

    codes: Array
    scales: Array
    zeros: Array | None
    block: int
    bits: int
    middle: int

    @property
    def real(self) -> Array:
        """Return the numbers [rows, columns] in the type of the scales."""
        middle = np.full(self.scales.shape, self.middle)
        zeros, scales = (
            np.repeat(array.astype(np.float64), self.block, axis=1)[:, : self.codes.shape[1]]
            for array in (middle if self.zeros is None else self.zeros, self.scales)
        )
        return np.asarray(((self.codes.astype(np.float64) - zeros) * scales).astype(self.scales.dtype))


@per_node
def _view(node: Node, context: Context) -> _Table | Refusal:
    stored = [context.value(node.input(place)) for place in (_TABLE, _SCALES, _ZEROS)]
    codes, scales, zeros = stored
    if codes is None or scales is None or (zeros is None and node.input(_ZEROS)):
        return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
    if (
        codes.ndim != 2
        or int(node.attributes.get("gather_axis", 0)) % 2
        or int(node.attributes.get("quantize_axis", 1)) % 2 != 1
    ):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} along other axes")
    bits, block = int(node.attributes.get("bits", _BITS)), int(node.attributes.get("block_size", _BLOCK))
    shared = bits if codes.dtype == np.uint8 and bits < 8 else 0
    if limits(codes.dtype) is None or codes.dtype.itemsize > 1 or shared not in (0, 2, 4):
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} {codes.dtype}")
    if shared:
        codes = unpacked(codes, shared)
        zeros = None if zeros is None else unpacked(zeros, shared)[:, : scales.shape[-1]]
    wanted = (codes.shape[0], -(-codes.shape[1] // block))
    if scales.shape != wanted or (zeros is not None and zeros.shape != wanted):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    if not all_finite(scales):
        return Refusal(Reason.NOT_FINITE, node.inputs[_SCALES])
    return _Table(codes, scales, zeros, block, shared, 1 << (bits - 1) if codes.dtype == np.uint8 else 0)


_viewed = view_or_error(_view)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Any row may be asked for."""
    real, shape = _viewed(node, context).real, (1,) * (context.rank(node.outputs[0]) - 1) + (-1,)
    return [Interval(*(end.astype(np.float64).reshape(shape) for end in (real.min(axis=0), real.max(axis=0))))]


def _link(node: Node, context: Context) -> None:
    """The columns of a block leave together; every row stays."""
    table, elements = _viewed(node, context), context.elements
    columns = elements.fresh((table.codes.shape[1],))
    elements.ids[node.outputs[0]] = columns.reshape((1,) * (context.rank(node.outputs[0]) - 1) + (-1,))
    context.ids(node.inputs[_ROWS])
    elements.union(columns, columns[first_of_block(columns.size, table.block)])
    elements.constraints.append(NotEmpty(elements.fresh((1,)), columns))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    everything = np.full((), True)
    demand = Demand(everything, everything, Reason.CONSTANT_READ, f"indices of {node.op}")
    return [None, demand, *(None for _ in node.inputs[2:])]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice columns, and the scales and zero points of their blocks."""
    table = _viewed(node, context)
    kept = rewriter.positions(node.outputs[0], context.rank(node.outputs[0]) - 1)
    if kept.all():
        return
    blocks = kept[:: table.block]
    rewriter.set_constant(node, _TABLE, _stored(table.codes[:, kept], table.bits))
    rewriter.set_constant(node, _SCALES, table.scales[:, blocks])
    if table.zeros is not None:
        rewriter.set_constant(node, _ZEROS, _stored(table.zeros[:, blocks], table.bits))


def _stored(codes: Array, bits: int) -> Array:
    return repacked(codes, bits) if bits else codes


def _parameters(node: Node, context: Context) -> list[Parameter]:
    table = _viewed(node, context)
    columns = along(context, node.outputs[0], context.rank(node.outputs[0]) - 1)
    each = 8 // table.bits if table.bits else 1
    found = [Parameter(node.inputs[_TABLE], _TABLE, Role.WEIGHT, (placed(columns[::each], 2, 1),), packed=each)]
    for place in (_SCALES, _ZEROS):
        if node.input(place):
            step = table.block * (each if place == _ZEROS else 1)
            found.append(Parameter(node.inputs[place], place, Role.OPERAND, (placed(columns[::step], 2, 1),)))
    return found


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    rows, table = context.shapes.get(node.inputs[_ROWS]), context.shapes.get(node.inputs[_TABLE])
    packed = context.dtypes.get(node.inputs[_TABLE]) == np_dtype_to_tensor_dtype(np.dtype(np.uint8))
    each = 8 // int(node.attributes.get("bits", _BITS)) if packed else 1
    if rows is None or table is None or len(table) != 2 or not isinstance(table[1], int):
        return [None]
    return [(*rows, table[1] * each)]


register(
    OpRule(
        "GatherBlockQuantized",
        domain="com.microsoft",
        infer=_infer,
        element_type=lambda node, context: context.dtypes.get(node.inputs[_SCALES]),
        applies=refusal_of(_view),
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
        parameters=_parameters,
    )
)
