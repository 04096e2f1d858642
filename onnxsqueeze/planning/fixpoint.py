"""From needs to a decision: which elements stay, frozen with the reasons. Knows no operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxsqueeze.abstract.compact import Floats
from onnxsqueeze.analysis.backward import Liveness
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.constraint import NO_CLASSES, Constraint, Kept, Phase
from onnxsqueeze.coupling.constraints import Box
from onnxsqueeze.coupling.keep_reason import Pin, Reason
from onnxsqueeze.planning.cancelled_bias import cancelled_summands
from onnxsqueeze.planning.narrowing import NarrowingPolicy, _narrowings
from onnxsqueeze.rules.lessons import Used
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.plan import Plan

Stated = tuple[str, Constraint]
"""A constraint, and the node that states it, as a user knows it; "" where none does."""


def make_plan(
    analysis: Analysis,
    policy: Sequence[Constraint] = (),
    pins: Sequence[Pin] = (),
    choose: NarrowingPolicy | None = None,
    used: Mapping[int, Used] | None = None,
) -> Plan:
    """Find the smallest set of classes that must stay; with ``choose`` also what may go that no tensor loses by.

    ``used`` says by node index which columns and rows of a layer's weight are no zeros once channels have gone.

    Keeping an element for regularity makes it needed, since what computes it must not turn into garbage; so what is
    kept is fed back into the backward sweep until nothing changes.
    """
    kept = _pinned(analysis, [*pins, *analysis.pins])
    constraints = _constraints(analysis, policy)
    while True:
        liveness = analysis.backward(kept.mask)
        before = int(kept.mask.sum())
        kept.live = liveness.live
        _keep_needed(analysis, liveness, kept)
        _enforce(constraints, kept)
        if int(kept.mask.sum()) == before:
            plan = _frozen(analysis, kept, liveness)
            return plan if choose is None else _beside_tensors(analysis, plan, choose, used or {})


def newly_constant(analysis: Analysis, plan: Plan) -> frozenset[str]:
    """Return the activations of which every element that stays is constant, but not every one that goes.

    Whoever combines such a tensor with others can take it for a constant, which another analysis then does.
    """
    found = set()
    for name, mask in plan.masks.items():
        constant = analysis.constant(name)
        if mask.any() and not constant.all() and constant[np.broadcast_to(mask, constant.shape)].all():
            found.add(name)
    return frozenset(found) - analysis.context.learned.constant


def _pinned(analysis: Analysis, pins: Sequence[Pin]) -> Kept:
    kept = Kept(
        np.zeros(analysis.classes, dtype=bool), np.full(analysis.classes, None, dtype=object), _costs(analysis), {}
    )
    for pin in pins:
        if analysis.context.is_activation(pin.tensor):
            classes = analysis.classes_of(pin.tensor)
            if pin.channel is not None:
                axis, position = pin.channel
                classes = classes.take([min(position, classes.shape[axis] - 1)], axis=axis)
            kept.add(classes, pin.reason, pin.detail or pin.tensor)
    return kept


def _costs(analysis: Analysis) -> Floats:
    """Return the weight elements that hang on each class. One that varies costs its inputs too."""
    places, shares, context = [NO_CLASSES], [np.zeros(0)], analysis.context
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        for parameter in rule.parameters(node, context) if any(map(context.is_activation, node.outputs)) else ():
            for classes in parameter.classes if parameter.role is Role.WEIGHT else ():
                elements = np.size(np.asarray(context.value(parameter.name)))
                places.append(analysis.labels[classes].ravel())
                shares.append(np.full(places[-1].size, elements / max(1, classes.size)))
    cost = np.zeros(analysis.classes)
    np.add.at(cost, np.concatenate(places), np.concatenate(shares))
    varies = np.zeros(analysis.classes, dtype=bool)
    for name in context.elements.ids:
        varies[analysis.classes_of(name)[~analysis.constant(name)]] = True
    cost[varies] += cost.max(initial=0.0) + 1.0
    return cost


def _constraints(analysis: Analysis, policy: Sequence[Constraint]) -> list[Stated]:
    elements = analysis.context.elements
    found: dict[bytes, tuple[str, Box]] = {}
    for name in elements.ids:
        ids = analysis.classes_of(name).squeeze()
        if ids.ndim > 1 and name not in elements.loose:
            strict = name in elements.strict
            found[repr((ids.shape, strict)).encode() + ids.tobytes()] = (analysis.maker(name), Box(ids, strict))
    boxes = _stepwise(list(found.values()), analysis.classes)
    stated = [(elements.origins.get(place, ""), each) for place, each in enumerate(elements.constraints)]
    others = [(node, each.labelled(analysis.labels)) for node, each in (*stated, *(("", each) for each in policy))]
    others.sort(key=lambda entry: entry[1].phase is Phase.LAST)  # else they stay in their order
    return [*boxes, *others]


def _stepwise(boxes: Sequence[tuple[str, Box]], classes: int) -> list[Stated]:
    """Put boxes with short rows first; those whose rows are made of several rows of others grow step by step."""
    shortest = np.full(classes, np.iinfo(np.int64).max)
    for _, box in boxes:
        np.minimum.at(shortest, box.ids.ravel(), box.row_length)
    found = [(node, replace(box, stepwise=bool((shortest[box.ids] < box.row_length).any()))) for node, box in boxes]
    return [*sorted(found, key=lambda entry: entry[1].row_length)]


def _keep_needed(analysis: Analysis, liveness: Liveness, kept: Kept) -> None:
    for name, hold, why in liveness.holds:
        kept.node = why.node
        kept.add(analysis.classes_of(name)[hold], why.reason, why.detail)
    for name, required in liveness.required.items():
        kept.node = _reader(analysis, name)
        kept.add(analysis.classes_of(name)[required & ~analysis.constant(name)], Reason.NEEDED, name)
    kept.node = ""


def _reader(analysis: Analysis, name: str) -> str:
    """Return a node that reads a tensor, as a user knows it."""
    return next((node.label for node, _ in analysis.graph.readers.get(name, ())), "")


def _enforce(constraints: Sequence[Stated], kept: Kept) -> None:
    """Enforce constraints until nothing changes; no choice is made before what leaves none has been settled."""
    forced = [entry for entry in constraints if entry[1].phase is Phase.FORCED]
    _settle(forced, kept)
    while True:
        before = kept.additions
        for kept.node, constraint in constraints:
            earlier = kept.additions
            constraint.enforce(kept)
            if kept.additions != earlier:
                _settle(forced, kept)
        if kept.additions == before:
            return


def _settle(constraints: Sequence[Stated], kept: Kept) -> None:
    while True:
        before = kept.additions
        for kept.node, constraint in constraints:
            constraint.enforce(kept)
        if kept.additions == before:
            return


def _frozen(analysis: Analysis, kept: Kept, liveness: Liveness) -> Plan:
    masks, reasons = {}, {}
    for name in analysis.context.elements.ids:
        classes = analysis.classes_of(name)
        mask = kept.mask[classes]
        reasons[name] = kept.reasons[classes.ravel()].reshape(classes.shape)
        if not mask.all():
            masks[name] = mask
    return Plan(masks, reasons, liveness.live)


def _beside_tensors(analysis: Analysis, plan: Plan, choose: NarrowingPolicy, used: Mapping[int, Used]) -> Plan:
    """Decide on the parts of weights, and on summands that make no difference, around what stays of the tensors."""
    cancelled: dict[int, int] = {}
    for node in analysis.graph.nodes:
        rule = analysis.rules[node.index]
        if rule.cancels is not None and analysis.context.is_activation(node.outputs[0]):
            for position in rule.cancels(node, analysis.context):
                cancelled.update(cancelled_summands(analysis.context, analysis.labels, node.inputs[position]))
    narrowings, whole = _narrowings(analysis, plan, choose, used)
    return replace(plan, narrowings=narrowings, whole=whole, cancelled=cancelled)
