"""Operators that select: where what they read ties to within rounding, several answers are right.

Which one a run gives says nothing of the model. So what a run selected is judged by what it was selected from, and what
comes after is judged given that selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from onnxsqueeze.verification.difference import Array, is_floating
from onnxsqueeze.verification.sessions import Values

Evaluate = Callable[[Values], Values]
"""Evaluates the node in question on other inputs, by name."""

_COMPARISONS = {"Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"}
_AS_MANY_AS_FOUND = {"NonMaxSuppression": 1, "NonZero": 0}  # and the axis along which one of them is described
_STEPS = {"Floor", "Ceil", "Round", "Sign", "QuantizeLinear"}  # monotone in their first input
_WHOLE = {getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}
_DOMAINS = ("", "ai.onnx")


def selects(node: NodeProto) -> bool:
    """Whether a node selects: its answer may jump where what it reads moves by a rounding error."""
    if node.domain not in _DOMAINS:
        return (node.domain, node.op_type) == ("com.microsoft", "QuantizeLinear")
    if node.op_type == "Cast":
        return attribute(node, "to", 0) in (*_WHOLE, TensorProto.BOOL)
    return node.op_type in _JUDGES or node.op_type in _STEPS


def read_by(node: NodeProto) -> Iterator[str]:
    """Yield the tensors that a selection depends on."""
    count = 2 if node.op_type in _COMPARISONS or node.op_type == "NonMaxSuppression" else 1
    yield from (name for name in node.input[:count] if name)


def chosen_by(node: NodeProto) -> str:
    """Return the tensor that tells what was selected."""
    return str(node.output[1] if node.op_type == "TopK" else node.output[0])


@dataclass(frozen=True)
class Selection:
    """One node that selects, evaluated in float64, and what a run selected there.

    Attributes:
        node: the node. inputs, made: what it reads and makes in float64, by name. chosen: what the run selected.
        slack: by name of an input, how far rounding may move its elements. evaluate: evaluates the node again.
    """

    node: NodeProto
    inputs: Values
    made: Values
    chosen: Array
    slack: dict[str, float]
    evaluate: Evaluate

    @property
    def fits(self) -> bool:
        """Whether what was selected is of the kind that the node gives here."""
        made = self.made[chosen_by(self.node)]
        if self.node.op_type in _AS_MANY_AS_FOUND:
            axis = _AS_MANY_AS_FOUND[self.node.op_type]
            return self.chosen.ndim == 2 and self.chosen.shape[axis] == made.shape[axis]
        return bool(np.shape(made) == np.shape(self.chosen))

    @property
    def differs(self) -> bool:
        """Whether something else was selected than in float64."""
        return not np.array_equal(self.made[chosen_by(self.node)], self.chosen)

    @property
    def consistent(self) -> bool:
        """Whether rounding of what the node reads can make it select this."""
        monotone = self.made[chosen_by(self.node)].dtype != bool
        judge = _JUDGES.get(self.node.op_type, _between_steps if monotone else _true)
        return bool(judge(self))

    def settled(self) -> Values:
        """Return what the node makes if it selects this."""
        if self.node.op_type == "TopK":
            scores = self.inputs[self.node.input[0]]
            values = np.take_along_axis(scores, self.chosen, _axis(self.node, -1))
            return {**self.made, self.node.output[0]: values, self.node.output[1]: self.chosen}
        name = chosen_by(self.node)
        kind = self.made[name].dtype
        return {**self.made, name: self.chosen.astype(kind)}

    def room(self, position: int = 0) -> float:
        """Return how far an input's elements may move."""
        return self.slack.get(self.node.input[position], 0.0)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node as a Python value."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def _axis(node: NodeProto, default: int) -> int:
    return int(attribute(node, "axis", default))


def _top(selection: Selection) -> bool:
    """The scores that were selected are, one by one, those of the best, to within what both may have moved."""
    node, axis = selection.node, _axis(selection.node, -1)
    scores = selection.inputs[node.input[0]]
    if not _within(selection.chosen, scores.shape[axis]):
        return False
    places = np.sort(selection.chosen, axis)
    if (np.diff(places, axis=axis) == 0).any():
        return False
    ours, theirs = selection.made[node.output[0]], np.take_along_axis(scores, selection.chosen, axis)
    if not attribute(node, "sorted", 1):
        ours, theirs = np.sort(ours, axis), np.sort(theirs, axis)
    return _close(ours, theirs, 2 * selection.room())


def _best(selection: Selection) -> bool:
    """The score at each place that was selected is the best, to within what both may have moved."""
    node, axis = selection.node, _axis(selection.node, 0)
    scores, name = selection.inputs[node.input[0]], node.output[0]
    keep = bool(attribute(node, "keepdims", 1))
    places = [each if keep else np.expand_dims(each, axis) for each in (selection.made[name], selection.chosen)]
    if not _within(places[1], scores.shape[axis]):
        return False
    ours, theirs = (np.take_along_axis(scores, each, axis) for each in places)
    return _close(ours, theirs, 2 * selection.room())


def _hardest(selection: Selection) -> bool:
    node = selection.node
    scores, axis = selection.inputs[node.input[0]], _axis(node, -1)
    one = selection.chosen == 1
    if not (one | (selection.chosen == 0)).all() or not (one.sum(axis) == 1).all():
        return False
    best = scores.max(axis, keepdims=True)
    return _close(np.broadcast_to(best, scores.shape)[one], scores[one], 2 * selection.room())


def _compared(selection: Selection) -> bool:
    """It is another answer only where the two are as good as equal."""
    left, right = (np.asarray(selection.inputs[name]) for name in selection.node.input[:2])
    other = np.asarray(selection.made[selection.node.output[0]] != selection.chosen)
    room = selection.room(0) + selection.room(1)
    with np.errstate(invalid="ignore"):
        near = np.abs(left.astype(np.float64) - right.astype(np.float64)) <= room
    return bool(np.broadcast_to(near, other.shape)[other].all())


def _true(selection: Selection) -> bool:
    """A cast to a truth value says something else only where the number is as good as 0."""
    other = selection.made[selection.node.output[0]] != selection.chosen
    return bool((np.abs(selection.inputs[selection.node.input[0]][other]) <= selection.room()).all())


def _not_zero(selection: Selection) -> bool:
    """Everything that was found is in order, and everything that is more than rounding was found."""
    scores = selection.inputs[selection.node.input[0]]
    if any(not _within(places, length) for places, length in zip(selection.chosen, scores.shape, strict=True)):
        return False
    places = np.ravel_multi_index(tuple(selection.chosen), scores.shape) if scores.ndim else selection.chosen[0]
    found = np.zeros(scores.size, bool)
    found[places] = True
    other = found != (scores.ravel() != 0)
    return bool((np.diff(places) > 0).all() and (np.abs(scores.ravel()[other]) <= selection.room()).all())


def _between_steps(selection: Selection) -> bool:
    """What is monotone lies between what it makes of a little less and of a little more."""
    name, room = selection.node.input[0], selection.room()
    made = chosen_by(selection.node)
    bounds = [selection.evaluate({**selection.inputs, name: selection.inputs[name] + by})[made] for by in (-room, room)]
    low, high = np.minimum(*bounds), np.maximum(*bounds)
    return bool(((selection.chosen >= low) & (selection.chosen <= high)).all())


def _suppressed(selection: Selection) -> bool:
    """Every box that was selected may be, and every other one may be left out, to within rounding."""
    node = selection.node
    boxes, scores = (np.asarray(selection.inputs[name]) for name in node.input[:2])
    numbers = [selection.inputs.get(name) if name else None for name in (*node.input[2:5], "", "", "")[:3]]
    most, overlap, least = (None if each is None else float(np.ravel(each)[0]) for each in numbers)
    center = bool(attribute(node, "center_point_box", 0))
    chosen = selection.chosen
    if len(np.unique(chosen, axis=0)) < len(chosen):
        return False
    extents = np.abs(boxes).max(initial=1.0)
    room = 8 * selection.room(0) / max(extents, 1e-30)  # of a quotient of areas
    for batch, kind in np.ndindex(*scores.shape[:2]):
        places = chosen[(chosen[:, 0] == batch) & (chosen[:, 1] == kind), 2]
        limits = (int(most or 0), overlap or 0.0, least, 2 * selection.room(1), room)
        if not _may_be_kept(_corners(boxes[batch], center), scores[batch, kind], places, limits):
            return False
    return True


def _may_be_kept(
    boxes: Array, scores: Array, places: Array, limits: tuple[int, float, float | None, float, float]
) -> bool:
    """Judge the boxes kept of one class. ``limits``: count, overlap and score, and the room of scores and overlaps."""
    most, overlap, least, room, area = limits
    if len(places) > most or not _within(places, len(boxes)):
        return False
    kept = scores[places]
    if (np.diff(kept) > room).any() or (least is not None and (kept <= least - room).any()):
        return False
    meets = _overlaps(boxes, boxes[places])  # [all, kept]
    among = np.asarray(meets[places] - np.eye(len(places)) * 2)
    if (among > overlap + area).any():
        return False
    better = kept[None, :] >= scores[:, None] - room
    excused = np.asarray(((meets > overlap - area) & better).any(axis=1))
    excused[places] = True
    if least is not None:
        excused |= scores <= least + room
    if len(places) == most:
        excused |= scores <= kept.min(initial=np.inf) + room
    return bool(excused.all())


def _corners(boxes: Array, center: bool) -> Array:
    """Return boxes [n, 4] as their lower and upper corners."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if center:
        return np.concatenate([first - second / 2, first + second / 2], axis=1)
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


def _overlaps(left: Array, right: Array) -> Array:
    """Return the share of their union that boxes have in common: [left, right]."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=-1) for each in (left, right)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _within(places: Array, length: int) -> bool:
    return bool(((places >= 0) & (places < length)).all())


def _close(ours: Array, theirs: Array, room: float) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(((ours == theirs) | (np.abs(ours - theirs) <= room)).all())


def floating(value: Any) -> bool:
    """Whether a tensor holds floating-point numbers, which rounding can move."""
    return isinstance(value, np.ndarray) and is_floating(value)


_JUDGES: dict[str, Callable[[Selection], bool]] = {
    "TopK": _top,
    "ArgMax": _best,
    "ArgMin": _best,
    "Hardmax": _hardest,
    "NonMaxSuppression": _suppressed,
    "NonZero": _not_zero,
    **dict.fromkeys(_COMPARISONS, _compared),
}
