"""Gather from a constant table: an embedding, a table of positions or token types, of which columns can leave.

What is looked up may be codes, which are decoded behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools, Floats, all_finite, fits
from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.abstract.interval import Interval, compact, constant_interval
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.codes import first_of_block, limits
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameter import Parameter
from onnxsqueeze.rules.parameters import linear_parameters
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.tied_weights import tie
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.rules.weight_source import codes_of, source_of, use_count
from onnxsqueeze.rules.weight_view import Linear

_LARGEST_CODE = 4  # bytes
_ZERO_POINT = 2  # the position at which it is read by what decodes


def embedding_rule(op: str, node: Node, context: Context) -> OpRule:
    """Return the rule of an operator that reads rows of a constant table at given positions."""
    if context.value(node.inputs[0]) is None:
        return replace(_RULE, op=op)  # which refuses it
    columns = [length for axis, length in enumerate(_table(node, context).shape) if axis != _axis(node, context)]
    plain = sum(length > 1 for length in columns) == 1 and _rows_rank(node, context) > 0
    return replace(EMBEDDINGS[0] if plain else EMBEDDINGS[1], op=op)


def _table(node: Node, context: Context) -> Array:
    table = context.value(node.inputs[0])
    assert table is not None
    return table


def _axis(node: Node, context: Context) -> int:
    rank = max(1, context.rank(node.inputs[0]))
    if node.op == "Slice":
        (axis,) = context.integers(node.inputs[3]) or [0]
        return axis % rank
    return int(node.attributes.get("axis", 0)) % rank


def _rows_rank(node: Node, context: Context) -> int:
    """Return how many axes stand in the output where the table's rows stood."""
    return 1 if node.op == "Slice" else context.rank(node.inputs[1])


def _rows(node: Node, context: Context) -> Array | None:
    """Return which rows are read, None where that is computed."""
    return None if node.op == "Slice" else context.value(node.inputs[1])


def _applies(node: Node, context: Context) -> Refusal | None:
    table = context.value(node.inputs[0])
    if table is None:  # such as strings
        return Refusal(Reason.UNSUPPORTED_DTYPE, node.operator)
    if not is_floating(table.dtype) and not _of_codes(table):
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} {table.dtype}")
    if table.size == 0:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return None if all_finite(table) else Refusal(Reason.NOT_FINITE, node.inputs[0])


def _of_codes(table: Array) -> bool:
    """Whether a table holds whole numbers, which may be codes."""
    return limits(table.dtype) is not None and table.dtype.itemsize <= _LARGEST_CODE


def _spread(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Put axes of length 1 for those of the indices where the table's own axis of length 1 stood."""
    axis, rank = _axis(node, context), _rows_rank(node, context)
    return array.reshape(array.shape[:axis] + (1,) * rank + array.shape[axis + 1 :])


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A column lies between the least and the greatest of its entries, since any row may be asked for."""
    table, axis = _table(node, context), _axis(node, context)
    indices = _rows(node, context)
    if indices is not None:
        rows = indices.astype(np.int64)
        if rows.size * table.size <= _MOST_ENTRIES * table.shape[axis]:
            entries = compact(constant_interval(np.take(table, rows, axis=axis)))
            if entries.lower.size <= table.size:  # else its readers would store more than the table
                return [entries]
        table = np.take(table, np.unique(rows % table.shape[axis]), axis=axis)
    lower, upper = table.min(axis=axis, keepdims=True), table.max(axis=axis, keepdims=True)
    return [
        Interval(_spread(node, context, lower.astype(np.float64)), _spread(node, context, upper.astype(np.float64)))
    ]


_MOST_ENTRIES = 1 << 20  # of rows that constant indices ask for, which are then told apart


def _link(node: Node, context: Context) -> None:
    elements, output = context.elements, node.outputs[0]
    axis, shape = _axis(node, context), _table(node, context).shape
    context.ids(node.inputs[1])  # constant indices get a class too
    columns = elements.fresh((*shape[:axis], 1, *shape[axis + 1 :]))
    codes = codes_of(context, node.inputs[0])
    if codes is not None and codes.block and codes.axis != axis:  # of those that share a scale all leave or none
        blocks = np.moveaxis(columns, codes.axis, -1)
        elements.union(blocks, blocks[..., first_of_block(blocks.shape[-1], codes.block)])
    ids = elements.ids[output] = _spread(node, context, columns)
    if sum(length > 1 for length in ids.shape) > 1:
        elements.strict.add(output)
        return
    row = elements.fresh((1,))
    elements.constraints.append(NotEmpty(row, ids))  # every row stays
    along = {place: columns.reshape(-1) for place, length in enumerate(shape) if place != axis and length > 1}
    tie(context, node.inputs[0], along | {axis: np.broadcast_to(row, (shape[axis],))})


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    everything = np.full((), True)
    demand = Demand(everything, everything, Reason.CONSTANT_READ, f"indices of {node.op}")
    return [None, *(demand for _ in node.inputs[1:])]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the columns of the table."""
    if not rewriter.narrowed(node.outputs[0]):
        return
    table, axis, rank = _table(node, context), _axis(node, context), _rows_rank(node, context)
    if rank == 0:
        sliced = np.moveaxis(rewriter.sliced(np.moveaxis(table, axis, 0), node.outputs[0]), 0, axis)
    else:
        aligned = table.reshape(table.shape[: axis + 1] + (1,) * (rank - 1) + table.shape[axis + 1 :])
        sliced = rewriter.sliced(aligned, node.outputs[0])
        sliced = sliced.reshape(sliced.shape[: axis + 1] + sliced.shape[axis + rank :])
    rewriter.set_constant(node, 0, sliced)


def _adopts(node: Node, context: Context, rewriter: Rewriter, axis: int, vector: Floats) -> bool:
    """Add a vector to every row, unless the table has another reader."""
    name, indexed, rank = node.inputs[0], _axis(node, context), _rows_rank(node, context)
    table, source = rewriter.constant_at(node, 0), source_of(context.graph, name, context.rank(name))
    if table is None or _of_codes(table) or source is None or use_count(context.graph, source.name) != 1:
        return False
    if indexed <= axis < indexed + rank:
        return False
    shape = [1] * table.ndim
    shape[axis if axis < indexed else axis - rank + 1] = -1
    total = table.astype(np.float64) + vector.reshape(shape)
    if not fits(total, table.dtype):
        return False
    rewriter.set_constant(node, 0, total.astype(table.dtype))
    return True


def _view(node: Node, context: Context) -> Linear:
    """See a table [.., rows, .., columns, ..] as the weight of a layer that reads one-hot vectors."""
    table, axis, rank = _table(node, context), _axis(node, context), _rows_rank(node, context)
    column = next(place for place, length in enumerate(table.shape) if place != axis and length > 1)
    shape, rows = table.shape, table.shape[axis]
    matrix = np.moveaxis(table, axis, 0).reshape(rows, -1).T

    def restore(array: Array) -> Array:
        lengths = [array.shape[1] if place == column else shape[place] for place in range(len(shape)) if place != axis]
        return np.moveaxis(array[0, :, :, 0].T.reshape(-1, *lengths), 0, axis)

    return Linear(
        data=node.inputs[1],
        weight=node.inputs[0],
        bias="",
        position=0,
        data_axis=0,
        output_axis=column if column < axis else column + rank - 1,
        matrix=matrix[None, :, :, None],
        zero_padded=False,
        restore=restore,
        bias_position=-1,
        is_table=True,
    )


def _parameters(node: Node, context: Context) -> Sequence[Parameter]:
    """The table; where all that reads its codes decodes them alike, they are zero where their zero point is."""
    found = linear_parameters(node, context, _view(node, context))
    readers = [reader for reader, _ in context.graph.readers.get(node.outputs[0], ())]
    zeros = {reader.input(_ZERO_POINT) for reader in readers if Trait.DECODES in rule_for(reader).traits}
    name = zeros.pop() if len(zeros) == 1 else ""
    zero = context.value(name) if name and _of_codes(_table(node, context)) else None
    return found if zero is None or zero.size != 1 else [replace(found[0], zero_point=name), *found[1:]]


_RULE = OpRule(
    "",
    applies=_applies,
    forward=_forward,
    link=_link,
    need=_need,
    repair=_repair,
    adopts=_adopts,
)

EMBEDDINGS = (replace(_RULE, linear=_view, parameters=_parameters), _RULE)
"""What may be chosen for a constant table: with one axis of columns it is a layer, with several it is only sliced."""
