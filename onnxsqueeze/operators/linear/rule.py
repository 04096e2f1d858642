"""The rule of a linear operator, made from the function that views its node."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.coupling.constraint import Classes, Constraint
from onnxsqueeze.coupling.constraints import Groups, NotEmpty, Representative
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.operators.linear.beside import beside_rule
from onnxsqueeze.operators.linear.bounds import bounds, read_constants
from onnxsqueeze.operators.linear.repair import absorbs, adopt, reconstructs, repair
from onnxsqueeze.operators.linear.stand_ins import StandIns, constants_of
from onnxsqueeze.operators.linear.view import View, constants
from onnxsqueeze.rules.channels import channel_ids, ties_others
from onnxsqueeze.rules.codes import first_of_block
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.memo import refusal_of, view_or_error
from onnxsqueeze.rules.parameters import linear_parameters
from onnxsqueeze.rules.plan import CAN_PAD, IMAGE, PRODUCTS_PER_PIXEL, PRODUCTS_PER_POINT
from onnxsqueeze.rules.tied_weights import tie, tie_parts, tied
from onnxsqueeze.rules.weight_source import codes_of, stored_narrower
from onnxsqueeze.rules.weight_view import Linear


def link(node: Node, context: Context, linear: Linear) -> None:
    """Give the outputs classes of their own and note what slicing must respect."""
    elements = context.elements
    if ties_others(context, linear):
        context.crossed.add(node.index)
    inputs = linear.per_group(channel_ids(context, linear.data, linear.data_axis), False)
    shape = [1] * context.rank(node.outputs[0])
    shape[linear.output_axis] = linear.groups * linear.matrix.shape[1]
    if linear.depthwise:
        elements.ids[node.outputs[0]] = inputs.reshape(shape)
        _tie(context, linear, inputs, inputs)
        return
    ids = elements.ids[node.outputs[0]] = elements.fresh(tuple(shape))
    _tie(context, linear, inputs, ids.reshape(linear.groups, -1))
    _keep_blocks(context, linear, ids)
    if linear.together is not None and inputs.size > 1:
        context.elements.union(inputs[0], inputs[0, linear.together])
    if linear.groups > 1:
        spares = partial(_saves, linear, 1) if _may_spare(context, linear) else None
        elements.constraints.append(Groups(inputs, ids.reshape(linear.groups, -1), spares))
    else:
        elements.constraints.append(NotEmpty(inputs, ids))
    found = constants_of(node, context, linear)
    if found is not None:
        elements.constraints.append(StandIns(linear.data, inputs, found))
    if linear.zero_padded and codes_of(context, linear.weight) is None:
        values = read_constants(linear, node, context)
        if values.any():
            elements.constraints.append(Representative(linear.data, inputs, values))


def _may_spare(context: Context, linear: Linear) -> bool:
    """Whether a layer of several groups can do without some of them, between tensors that keep their channels."""
    return codes_of(context, linear.weight) is None and context.graph.opsets.get(ONNX_DOMAIN, 0) >= CAN_PAD


def _saves(linear: Linear, least: int, idle: int, staying: int, outputs: bool) -> bool:
    """Whether ``idle`` groups hold more than ``least`` weight elements for each channel that is moved without them.

    Those are what the others read, or what the layer makes.
    """
    _, out, inner, taps = linear.matrix.shape
    moved = staying * out if outputs else (staying - idle) * inner
    return bool(idle * out * inner * taps > least * moved)


def _worthwhile(node: Node, context: Context, linear: Linear) -> Sequence[Constraint]:
    """Groups stay that compute nothing, or read nothing, where it would take longer to move the others' channels."""
    if linear.groups == 1 or linear.depthwise or not _may_spare(context, linear):
        return []
    least = PRODUCTS_PER_PIXEL if context.rank(linear.data) == IMAGE else PRODUCTS_PER_POINT
    sides = ((linear.data, linear.data_axis), (node.outputs[0], linear.output_axis))
    read, computed = (linear.per_group(channel_ids(context, *side), bool(place)) for place, side in enumerate(sides))
    return [Groups(read, computed, partial(_saves, linear, least))]


def _tie(context: Context, linear: Linear, inputs: Classes, outputs: Classes) -> None:
    """The users of a stored weight that is to be sliced once keep the same of its inputs and outputs."""
    if linear.groups == 1:
        tie(context, linear.weight, {linear.stored_axis(1): outputs.ravel(), linear.stored_axis(2): inputs.ravel()})
    else:
        layout = linear.matrix.shape
        tie_parts(context, linear.weight, {("inputs", *layout): inputs, ("outputs", *layout): outputs})


def _keep_blocks(context: Context, linear: Linear, outputs: Classes) -> None:
    """Codes that share a scale in blocks along the outputs leave in whole blocks."""
    codes = codes_of(context, linear.weight)
    if codes is None or not codes.block or linear.groups > 1:
        return
    classes = outputs.ravel()
    if codes.axis == linear.stored_axis(1) and classes.size > 1:
        context.elements.union(classes, classes[first_of_block(classes.size, codes.block)])


def _alterable(context: Context, linear: Linear) -> bool:
    """Whether a layer may change its weight, not only slice it: no other reads it, and it is stored in its own type."""
    if codes_of(context, linear.weight) is not None:
        return False
    nbytes = linear.matrix.size * linear.matrix.dtype.itemsize
    return tied(context, linear.weight) is None and not stored_narrower(context.graph, linear.weight, nbytes)


def need(node: Node, context: Context, linear: Linear, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input channel is live if a needed output reads it; one that is constant but not everywhere alike stays."""
    wanted = linear.per_group(outputs[0].reshape(-1), True)
    live = linear.reads.columns(wanted)
    shape = [1] * context.rank(linear.data)
    shape[linear.data_axis] = -1
    live = live.reshape(shape)
    values = constants(linear, context).reshape(shape)
    uneven, reason = live & np.isnan(values), Reason.CONSTANT_VARIES
    coded = codes_of(context, linear.weight) is not None
    if linear.zero_padded and coded and constants_of(node, context, linear) is None:
        # nobody can stand for what borders do not see
        uneven, reason = uneven | (live & (values != 0)), Reason.PADDED
    interval = context.interval(linear.data)
    folds = interval.reconstructible if linear.one_matrix and _alterable(context, linear) else None
    demand = Demand(live, uneven & interval.constant, reason, node.operator, folds)
    return [demand if name == linear.data else None for name in node.inputs]


def linear_rule(op: str, view: View, since: int = 1, beside: bool = False) -> OpRule:
    """Return the rule of a linear operator from the function that views its node, a `linear_view`.

    ``beside``: whether it may be read the other way round, too; not for what computes more than the view says.
    """
    viewed = view_or_error(view)
    return OpRule(
        op,
        since=since,
        applies=refusal_of(view),
        forward=lambda node, context: [bounds(node, context, viewed(node, context))],
        link=lambda node, context: link(node, context, viewed(node, context)),
        need=lambda node, context, outputs: need(node, context, viewed(node, context), outputs),
        repair=lambda node, context, rewriter: repair(node, context, rewriter, viewed(node, context)),
        absorbs=lambda node, context, position, axis: absorbs(viewed(node, context), node, position, axis),
        adopts=lambda node, context, rewriter, axis, vector: adopt(
            node, context, rewriter, viewed(node, context), axis, vector
        ),
        reconstructs=lambda node, context, position, axis: (
            reconstructs(viewed(node, context), node, position, axis) and _alterable(context, viewed(node, context))
        ),
        worthwhile=lambda node, context: _worthwhile(node, context, viewed(node, context)),
        linear=viewed,
        parameters=lambda node, context: linear_parameters(node, context, viewed(node, context)),
        narrows=True,
        beside=beside_rule(op, view) if beside else None,
    )
