"""LSTM, GRU and RNN: a hidden unit leaves with its gates, in each direction on its own.

A unit can go if nothing reads it, neither outside nor, through the recurrent weights, a unit that stays; or if it is
one constant at all times, the initial state included. In DynamicQuantizeLSTM it must be 0 at all times: any other one
could set the scale of the states (see `onnxsqueeze.operators.recurrent.measured`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnxsqueeze.abstract.compact import Bools, Floats, any_along
from onnxsqueeze.abstract.interval import Interval, constant_interval, hull
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.recurrent.coded_weight import KERNEL, NUMBERS, RECURRENT
from onnxsqueeze.operators.recurrent.layer import BIAS, CELL, CODED, DATA, HIDDEN, LENGTHS, PEEPHOLE, Layer, layer_of
from onnxsqueeze.operators.recurrent.measured import Extremes, demand, setting_scale, signs
from onnxsqueeze.operators.recurrent.products import products_of
from onnxsqueeze.operators.recurrent.repair import repair
from onnxsqueeze.operators.recurrent.state_bounds import ReachableStates, State, reachable_states
from onnxsqueeze.rules.channels import channel_bounds, channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.memo import per_node, refusal_of, view_or_error
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.parameters import along
from onnxsqueeze.rules.products import Product
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.tied_weights import tie_parts

_INPUT_AXIS = 2
_NEW_OPERATORS = 7  # the opset version since which the outputs are always the same three


@dataclass(frozen=True)
class Recurrence(Constraint):
    """Units that stay keep those that they read through the recurrent weights.

    ``units`` are the classes of one direction's units [H], ``reads[i, j]`` says whether unit i needs unit j.
    """

    units: Classes
    reads: Bools
    detail: str
    by_value: ClassVar[bool] = True

    def enforce(self, kept: Kept) -> None:
        """Keep what kept units read, step by step."""
        while True:
            before = kept.additions
            needed = self.reads[kept.mask[self.units]].any(axis=0)
            kept.add(self.units[needed], Reason.NEEDED, self.detail)
            if kept.additions == before:
                return


_viewed = view_or_error(layer_of)


@per_node
def _reachable_states(node: Node, context: Context) -> ReachableStates:
    layer = _viewed(node, context)
    start = State(*(_initial(node, context, layer, position) for position in (HIDDEN, CELL)))
    with np.errstate(all="ignore"):
        return reachable_states(layer, _features(node, context, layer), start)


def _features(node: Node, context: Context, layer: Layer) -> Interval:
    """Return the intervals of the input features [I] as the weights read them, whatever the step."""
    lower, upper = channel_bounds(context, node.inputs[DATA], _INPUT_AXIS)
    found = Interval(np.broadcast_to(lower, (layer.features,)), np.broadcast_to(upper, (layer.features,)))
    return signs(found) if layer.measures else found


def _initial(node: Node, context: Context, layer: Layer, position: int) -> Interval:
    """Return the interval of an initial state [D, H], of all samples together."""
    name = node.input(position)
    if not name:
        return constant_interval(np.zeros((layer.directions, layer.units)))
    interval, axis = context.interval(name), int(not layer.batch_first)
    lower, upper = interval.lower.min(axis=axis, keepdims=True), interval.upper.max(axis=axis, keepdims=True)
    return Interval(layer.by_unit(lower), layer.by_unit(upper))


def _zero_states(node: Node, context: Context) -> list[int]:
    """Return the positions of initial states that are given, but zeros, as they are where none is given."""
    intervals = {
        position: context.interval(node.input(position)) for position in (HIDDEN, CELL) if node.input(position)
    }
    return [
        position for position, interval in intervals.items() if interval.wholly_constant and not interval.lower.any()
    ]


def _states(node: Node, context: Context) -> list[int]:
    """Return the positions of initial states that depend on the graph's inputs."""
    given = [position for position in (HIDDEN, CELL) if context.is_activation(node.input(position))]
    return [position for position in given if position not in _zero_states(node, context)]


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Where samples have lengths of their own, steps behind the end give 0; without any step the state is the first."""
    layer, found = _viewed(node, context), _reachable_states(node, context)
    every, last = found.reached, found.read if node.input(LENGTHS) else found.reached
    steps = hull([every.hidden, constant_interval(0.0)]) if node.input(LENGTHS) else every.hidden
    intervals = (steps, last.hidden, last.cell)
    return [
        Interval(layer.placed(interval.lower, context.rank(name)), layer.placed(interval.upper, context.rank(name)))
        if name
        else constant_interval(0.0)
        for name, interval in zip(node.outputs, intervals, strict=False)
    ]


def _link(node: Node, context: Context) -> None:
    layer, elements = _viewed(node, context), context.elements
    units = elements.fresh((layer.directions, layer.units))
    for name in node.outputs:
        if name:
            elements.ids[name] = layer.placed(units, context.rank(name))
    for position in _states(node, context):
        name = node.inputs[position]
        elements.union(layer.placed(units, context.rank(name)), context.ids(name))
    features = np.broadcast_to(channel_ids(context, node.inputs[DATA], _INPUT_AXIS), (layer.features,))
    elements.constraints.append(NotEmpty(features, units))
    for ids, reads in zip(units, _reads(node, context), strict=True):
        elements.constraints.append(Recurrence(ids, reads, f"the recurrence of {node.label}"))
    if layer.measures:
        setting = _setting_scales(node, context)
        elements.constraints += [Extremes(*pair, node.operator) for pair in zip(units, setting, strict=True)]
    own = {("units", *units.shape): units}
    tie_parts(context, node.inputs[KERNEL], {("inputs", *features.shape): features} | own)
    tie_parts(context, node.inputs[RECURRENT], own)


def _setting_scales(node: Node, context: Context) -> Bools:
    """Return which units could set the scale that the states of their direction are encoded by, [D, H]."""
    hidden = _reachable_states(node, context).read.hidden
    return np.stack([setting_scale(Interval(*pair)) for pair in zip(hidden.lower, hidden.upper, strict=True)])


def _states_read(node: Node, context: Context) -> Interval:
    """Return the intervals of the states [D, H] as the weights read them."""
    hidden = _reachable_states(node, context).read.hidden
    return signs(hidden) if _viewed(node, context).measures else hidden


def _reads(node: Node, context: Context) -> Bools:
    """Return which unit i reads which unit j, [D, H, H]; one that is constant at all times joins the biases."""
    layer, state = _viewed(node, context), _states_read(node, context)
    folded = state.constant[:, None, None, :]
    read: Bools = layer.recurrent != 0
    if layer.op == "GRU" and not layer.linear_before_reset:  # there the reset multiplies what the last gate reads
        zero = folded[:, 0] & (state.lower == 0)[:, None, :]
        return np.asarray(any_along(read[:, :2] & ~folded, 1) | (read[:, 2] & ~zero))
    return any_along(read & ~folded, 1)


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input feature is live if a needed unit reads it; one that is constant but not everywhere alike stays."""
    layer = _viewed(node, context)
    wanted = np.full((layer.directions, layer.units), False)
    for name, mask in zip(node.outputs, outputs, strict=True):
        if name:
            wanted |= layer.by_unit(mask)
    everything = np.full((), True)
    demands: list[Demand | None] = [None] * len(node.inputs)
    demands[DATA] = _need_features(node, context, layer, wanted)
    if node.input(LENGTHS):
        demands[LENGTHS] = Demand(everything, everything, Reason.CONSTANT_READ, f"lengths of {node.op}")
    for position in _states(node, context):
        demands[position] = Demand(layer.placed(wanted, context.rank(node.inputs[position])))
    return demands


def _need_features(node: Node, context: Context, layer: Layer, wanted: Bools) -> Demand:
    name = node.inputs[DATA]
    live = (any_along(layer.kernel != 0, 1) & wanted[..., None]).any(axis=(0, 1)).reshape(1, 1, -1)
    if layer.measures:
        return demand(context.interval(name), live, node.operator)
    uneven = live & ~_features(node, context, layer).constant
    return Demand(live, uneven & context.interval(name).constant, Reason.CONSTANT_VARIES, node.operator)


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    layer, states = _viewed(node, context), _states_read(node, context)
    features = _features(node, context, layer)
    repair(node, context, rewriter, layer, _constants(features), _constants(states), _zero_states(node, context))


def _parameters(node: Node, context: Context) -> Sequence[Parameter]:
    """Each gate has a row for each unit; each unit that stays reads the units and the features."""
    layer = _viewed(node, context)
    units = layer.by_unit(context.ids(next(name for name in node.outputs if name)))
    features = np.broadcast_to(along(context, node.inputs[DATA], _INPUT_AXIS), (layer.features,))
    gates = layer.kernel.shape[1]
    rows, every = np.tile(units, (1, gates)), (node.inputs[DATA], (0, 1))
    found = []
    for position, columns in ((KERNEL, features[None, :]), (RECURRENT, units)):
        classes = (rows[:, None, :], columns[:, :, None]) if layer.codes else (rows[:, :, None], columns[:, None, :])
        weight = Parameter(node.inputs[position], position, Role.WEIGHT, classes, every)
        found += _coded(node, context, weight, rows) if layer.codes else [weight]
    for position, repeats in ((BIAS, 2 * gates), (PEEPHOLE, 3)):
        if node.input(position):
            found.append(Parameter(node.inputs[position], position, Role.SUMMAND, (np.tile(units, (1, repeats)),)))
    return found


def _coded(node: Node, context: Context, weight: Parameter, rows: Classes) -> list[Parameter]:
    """A weight of codes has scales and zero points, for each direction or each row of a gate."""
    places = NUMBERS[weight.position]
    by_row = [len(context.shape(node.inputs[place])) > 1 for place in places]
    found = [replace(weight, zero_point=node.inputs[places[1]], zero_axes=(0, 2) if by_row[1] else (0,))]
    for place, own in zip(places, by_row, strict=True):
        found.append(
            Parameter(node.inputs[place], place, Role.OPERAND if own else Role.SETTING, (rows,) if own else ())
        )
    return found


def _products(node: Node, context: Context) -> Sequence[Product]:
    """What is known of states that begin at zero, and go on to the last step."""
    layer = _viewed(node, context)
    free = bool(node.outputs[0]) and not _states(node, context) and not node.input(LENGTHS)
    return [] if layer.codes else products_of(node, context, layer, free)


def _constants(interval: Interval) -> Floats:
    return np.where(interval.constant, interval.lower, np.nan)


def _absorbs(node: Node, context: Context, position: int, axis: int) -> bool:
    """A vector on the inputs joins the biases."""
    return position == DATA and axis == _INPUT_AXIS and node.inputs.count(node.inputs[DATA]) == 1


def _shapes(node: Node, context: Context) -> Sequence[Shape | None]:
    data, weight = context.shapes.get(node.inputs[DATA]), context.shapes.get(node.inputs[RECURRENT])
    if data is None or weight is None or len(data) != 3 or len(weight) != 3:
        return [None] * len(node.outputs)
    state = (weight[0], data[1], weight[1])
    return [(data[0], *state), state, state][: len(node.outputs)]


def _rule(op: str, **fields: Any) -> OpRule:
    return OpRule(
        op,
        applies=refusal_of(layer_of),
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
        parameters=_parameters,
        products=_products,
        contracts=lambda node, context: [node.inputs[DATA]],
        **fields,
    )


register(
    *(_rule(op, since=_NEW_OPERATORS, absorbs=_absorbs) for op in ("LSTM", "GRU", "RNN")),
    _rule(CODED, domain="com.microsoft", infer=_shapes),
)
