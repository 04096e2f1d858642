"""GatherND: slices of data that index rows name; those of a constant (expert weights) are all narrowed alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, all_finite
from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.abstract.interval import Interval, collapse, rearranged
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait


def _value(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """Each last row of the indices is a place in the data behind the batch axes, which both share."""
    data, indices = inputs
    batch = int(node.attributes.get("batch_dims", 0))
    rows = list(np.moveaxis(indices.astype(np.int64), -1, 0))
    axes = np.ogrid[tuple(slice(length) for length in data.shape[:batch])]
    leading = [axis.reshape(axis.shape + (1,) * (indices.ndim - 1 - batch)) for axis in axes]
    return [data[tuple(leading + rows)]]


def _leading(node: Node, context: Context) -> int | None:
    """Return how many axes of the data are gathered from, batch axes included; None where that is not known."""
    count = context.shape(node.inputs[1])[-1]
    return int(node.attributes.get("batch_dims", 0)) + count if isinstance(count, int) else None


def _applies(node: Node, context: Context) -> Refusal | None:
    leading, name = _leading(node, context), node.inputs[0]
    if leading is None:
        return Refusal(Reason.UNKNOWN_SHAPE, node.inputs[1])
    if leading >= context.rank(name):
        return Refusal(Reason.SINGLE_ELEMENTS, node.op)
    table = None if context.is_activation(name) else context.value(name)
    if table is None:
        return None
    if not is_floating(table.dtype) or table.size == 0:
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} {table.dtype}")
    return None if all_finite(table) else Refusal(Reason.NOT_FINITE, name)


def _moved(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Put the axes of the indices where those stood that are gathered from, all of length 1."""
    leading = _leading(node, context)
    return array.reshape((1,) * (context.rank(node.inputs[1]) - 1) + array.shape[leading:])


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Any of the slices may be asked for."""
    leading = _leading(node, context)
    assert leading is not None
    interval = collapse(context.interval(node.inputs[0]), range(leading))
    return [rearranged(interval, lambda array: _moved(node, context, array))]


def _link(node: Node, context: Context) -> None:
    """The channels of a slice are those of the data; of a constant they are the slices' own."""
    elements, name, leading = context.elements, node.inputs[0], _leading(node, context)
    assert leading is not None
    if context.is_activation(name):
        ids = elements.ids[name] = elements.merge(context.ids(name), tuple(range(leading)))
    else:
        lengths = context.shape(name)[leading:]
        ids = elements.fresh((1,) * leading + tuple(int(length) for length in lengths))  # type: ignore[arg-type]
    context.ids(node.inputs[1])  # constant indices get a class too
    output = elements.ids[node.outputs[0]] = _moved(node, context, ids)
    if sum(length > 1 for length in output.shape) > 1:
        elements.strict.update(filter(context.is_activation, (name, node.outputs[0])))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    leading, everything = _leading(node, context), np.full((), True)
    assert leading is not None
    own = context.rank(node.inputs[1]) - 1
    live = outputs[0].any(axis=tuple(range(own)))
    data = Demand(live.reshape((1,) * leading + live.shape))
    return [data, Demand(everything, everything, Reason.CONSTANT_READ, f"indices of {node.op}")]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice a constant."""
    table = None if context.is_activation(node.inputs[0]) else context.value(node.inputs[0])
    if table is not None and rewriter.narrowed(node.outputs[0]):
        rewriter.set_constant(node, 0, rewriter.sliced(table, node.outputs[0]))


def _parameters(node: Node, context: Context) -> Sequence[Parameter]:
    """A constant's slices have the classes of the output, whichever of them are taken."""
    name, leading = node.inputs[0], _leading(node, context)
    if context.is_activation(name) or leading is None:
        return ()
    trailing = context.ids(node.outputs[0])[(0,) * (context.rank(node.inputs[1]) - 1)]
    return [Parameter(name, 0, Role.SUMMAND, (trailing.reshape((1,) * leading + trailing.shape),))]


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    leading = _leading(node, context)
    if position != 0 or leading is None or axis < leading:
        return None
    return axis - leading + context.rank(node.inputs[1]) - 1


register(
    OpRule(
        "GatherND",
        since=11,
        evaluate=_value,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
        carries=_carries,
        parameters=_parameters,
        traits=frozenset({Trait.CARRIES_OVER}),
    )
)
