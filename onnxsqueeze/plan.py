"""From needs to a decision: which elements stay, frozen with the reasons. Knows no operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from onnxsqueeze.analysis import Analysis, Needs, Pin
from onnxsqueeze.attention.key_bias import idle_summands
from onnxsqueeze.fact import Bools, Floats, any_along
from onnxsqueeze.graph import Node
from onnxsqueeze.linear import Candidate, Narrowing, Used, zeros_of
from onnxsqueeze.reason import Reason
from onnxsqueeze.regularity import Box, Broadcast, Constraint, Copies, Kept, NotEmpty
from onnxsqueeze.stored import stored, uses


@dataclass(frozen=True)
class Plan:
    """What stays.

    Attributes:
        masks: by tensor name, the elements that stay (compact bool array of the tensor's rank); only tensors that lose
            some are listed.
        reasons: by tensor name, why each element stays, as (reason, detail) or None where it goes (compact, object).
        live: what is needed of each tensor if just this stays (compact).
        narrowings: by node index, the part of its weight that a layer computes with where the tensors stay whole.
        whole: by node index, why a layer with rows or columns of zeros computes with all of its weight, and how many.
        idle: by node index, the input that is a constant summand which makes no difference; -1 where there is none yet,
            and none is to be made.
    """

    masks: Mapping[str, Bools]
    reasons: Mapping[str, npt.NDArray[np.object_]]
    live: Mapping[str, Bools]
    narrowings: Mapping[int, Narrowing] = field(default_factory=dict)
    whole: Mapping[int, tuple[Reason, int]] = field(default_factory=dict)
    idle: Mapping[int, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not (self.masks or self.narrowings or any(map(self.drops_summand, self.idle)))

    def drops_summand(self, index: int) -> bool:
        """Whether a node is to do without one of its inputs."""
        return self.idle.get(index, -1) >= 0

    def kept(self, name: str, axis: int, rank: int) -> Bools:
        """Return which positions along an axis stay in a tensor; of length 1 where they stay or go together."""
        mask = self.masks.get(name, np.full((1,) * rank, True))
        return any_along(mask, tuple(other for other in range(rank) if other != axis))

    def gone(self, name: str) -> bool:
        """Whether no element of a tensor stays."""
        return name in self.masks and not self.masks[name].any()


Choose = Callable[[Candidate], "Narrowing | Reason"]
"""Of the narrowest part that a layer could compute with, decides on a part that pays, or why none does."""


def make_plan(
    analysis: Analysis,
    policy: Sequence[Constraint] = (),
    pins: Sequence[Pin] = (),
    choose: Choose | None = None,
    used: Mapping[int, Used] | None = None,
) -> Plan:
    """Find the smallest set of classes that must stay; with ``choose`` also what may go that no tensor loses by.

    ``used`` says by node index which columns and rows of a layer's weight are no zeros once channels have gone.

    Keeping an element for regularity makes it needed, since what computes it must not turn into garbage; so what is
    kept is fed back into the backward sweep until nothing changes.
    """
    kept = _pinned(analysis, [*analysis.pins, *pins])
    constraints = _constraints(analysis, policy)
    while True:
        needs = analysis.backward(kept.mask)
        before = int(kept.mask.sum())
        kept.live = needs.live
        _keep_needed(analysis, needs, kept)
        _enforce(constraints, kept)
        if int(kept.mask.sum()) == before:
            plan = _frozen(analysis, kept, needs)
            return plan if choose is None else _beside_tensors(analysis, plan, choose, used or {})


def newly_settled(analysis: Analysis, plan: Plan) -> frozenset[str]:
    """Return the activations of which every element that stays is constant, but not every one that goes.

    Whoever combines such a tensor with others can take it for a constant, which another analysis then does.
    """
    found = set()
    for name, mask in plan.masks.items():
        constant = analysis.constant(name)
        if mask.any() and not constant.all() and constant[np.broadcast_to(mask, constant.shape)].all():
            found.add(name)
    return frozenset(found) - analysis.context.known.settled


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
    cost = np.zeros(analysis.classes)
    for node in analysis.graph.nodes:
        rule = analysis.rules[node.index]
        if rule.weights is not None and analysis.context.is_activation(node.outputs[0]):
            linear = rule.weights(node, analysis.context)
            _, out, inner, taps = linear.matrix.shape
            np.add.at(cost, analysis.classes_of(node.outputs[0]).ravel(), inner * taps)
            np.add.at(cost, analysis.classes_of(linear.data).ravel(), out * taps)
    most = cost.max(initial=0.0) + 1.0
    for name in analysis.context.elements.ids:
        varying = analysis.classes_of(name)[~analysis.constant(name)]
        cost[varying] = np.where(cost[varying] < most, cost[varying] + most, cost[varying])
    return cost


def _constraints(analysis: Analysis, policy: Sequence[Constraint]) -> list[Constraint]:
    elements = analysis.context.elements
    found: dict[bytes, Box] = {}
    for name in elements.ids:
        ids = analysis.classes_of(name).squeeze()
        if ids.ndim > 1 and name not in elements.loose:
            strict = name in elements.strict
            found[repr((ids.shape, strict)).encode() + ids.tobytes()] = Box(ids, strict)
    boxes = _stepwise(list(found.values()), analysis.classes)
    others = [constraint.labelled(analysis.labels) for constraint in (*elements.constraints, *policy)]
    last = [constraint for constraint in others if isinstance(constraint, NotEmpty)]  # whatever else stays will do
    return [*boxes, *(constraint for constraint in others if not isinstance(constraint, NotEmpty)), *last]


def _stepwise(boxes: Sequence[Box], classes: int) -> list[Box]:
    """Put boxes with short rows first; those whose rows are made of several rows of others grow step by step."""
    shortest = np.full(classes, np.iinfo(np.int64).max)
    for box in boxes:
        np.minimum.at(shortest, box.ids.ravel(), box.row_length)
    found = [replace(box, stepwise=bool((shortest[box.ids] < box.row_length).any())) for box in boxes]
    return sorted(found, key=lambda box: box.row_length)


def _keep_needed(analysis: Analysis, needs: Needs, kept: Kept) -> None:
    for name, hold, reason, detail in needs.holds:
        kept.add(analysis.classes_of(name)[hold], reason, detail)
    for name, firm in needs.firm.items():
        kept.add(analysis.classes_of(name)[firm & ~analysis.constant(name)], Reason.NEEDED, name)


def _enforce(constraints: Sequence[Constraint], kept: Kept) -> None:
    """Enforce constraints until nothing changes; no choice is made before what leaves none has been settled."""
    unambiguous = [constraint for constraint in constraints if isinstance(constraint, Broadcast | Copies)]
    _settle(unambiguous, kept)
    while True:
        before = kept.additions
        for constraint in constraints:
            earlier = kept.additions
            constraint.enforce(kept)
            if kept.additions != earlier:
                _settle(unambiguous, kept)
        if kept.additions == before:
            return


def _settle(constraints: Sequence[Constraint], kept: Kept) -> None:
    while True:
        before = kept.additions
        for constraint in constraints:
            constraint.enforce(kept)
        if kept.additions == before:
            return


def _frozen(analysis: Analysis, kept: Kept, needs: Needs) -> Plan:
    masks, reasons = {}, {}
    for name in analysis.context.elements.ids:
        classes = analysis.classes_of(name)
        mask = kept.mask[classes]
        reasons[name] = kept.reasons[classes.ravel()].reshape(classes.shape)
        if not mask.all():
            masks[name] = mask
    return Plan(masks, reasons, needs.live)


def _beside_tensors(analysis: Analysis, plan: Plan, choose: Choose, used: Mapping[int, Used]) -> Plan:
    """Decide on the parts of weights, and on summands that make no difference, around what stays of the tensors."""
    idle: dict[int, int] = {}
    for node in analysis.graph.nodes:
        rule = analysis.rules[node.index]
        if rule.cancels is not None and analysis.context.is_activation(node.outputs[0]):
            for position in rule.cancels(node, analysis.context):
                idle.update(idle_summands(analysis.context, analysis.labels, node.inputs[position]))
    narrowings, whole = _narrowings(analysis, plan, choose, used)
    return replace(plan, narrowings=narrowings, whole=whole, idle=idle)


def _narrowings(
    analysis: Analysis, plan: Plan, choose: Choose, used: Mapping[int, Used]
) -> tuple[dict[int, Narrowing], dict[int, tuple[Reason, int]]]:
    """Decide for each layer. The users of one stored weight must want the same of it, else they would need copies."""
    users: dict[str, dict[int, Candidate]] = defaultdict(dict)
    for node in analysis.graph.nodes:
        candidate = _candidate(analysis, plan, node, used.get(node.index))
        if candidate is not None:
            users[candidate.linear.weight][node.index] = candidate
    narrowings: dict[int, Narrowing] = {}
    whole: dict[int, tuple[Reason, int]] = {}
    for name, candidates in users.items():
        first, *others = candidates.values()
        alone = len(candidates) >= _users_of(analysis, name) and all(other.like(first) for other in others)
        chosen = choose(first) if alone else Reason.LARGER
        for index, candidate in candidates.items():
            if isinstance(chosen, Narrowing):
                narrowings[index] = chosen
            else:
                whole[index] = (chosen, candidate.zeros)
    return narrowings, whole


def _users_of(analysis: Analysis, weight: str) -> int:
    source = stored(analysis.graph, weight, analysis.context.rank(weight))
    return 1 if source is None else uses(analysis.graph, source.name, shapes=False)


def _candidate(analysis: Analysis, plan: Plan, node: Node, used: Used | None) -> Candidate | None:
    """Return a layer that has rows or columns of zeros between what stays of the tensors around it."""
    rule, context = analysis.rules[node.index], analysis.context
    if not rule.narrows or rule.weights is None or not context.is_activation(node.outputs[0]):
        return None
    linear = rule.weights(node, context)
    sides = ((linear.data, linear.data_axis), (node.outputs[0], linear.output_axis))
    kept = [
        linear.per_group(plan.kept(name, axis, context.rank(name)), bool(place))
        for place, (name, axis) in enumerate(sides)
    ]
    found = zeros_of(node, context, linear, kept[0], kept[1], used)
    if found is None:
        return None
    last = [axis == context.rank(name) - 1 for name, axis in sides]
    return Candidate(linear, found, kept[0][0], kept[1][0], (last[0], last[1]))
