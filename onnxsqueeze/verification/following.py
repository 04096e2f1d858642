"""Evaluate a model in float64 given what a run of it, or of the other one, selected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import read_names
from onnxsqueeze.verification.alignment import NotFoundError, aligned
from onnxsqueeze.verification.difference import Array, Tolerance, default_tolerance, difference
from onnxsqueeze.verification.locate import with_outputs
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.pieces import Pieces, Step, Steps, selects_inside, settled
from onnxsqueeze.verification.selections import Selection, attribute, chosen_by, floating, read_by, selects
from onnxsqueeze.verification.sessions import Session, Values

_HONEST = 4  # two honest roundings of one thing lie so many times apart, at most
_WORST_SCORES = 0.1  # of their scale: however badly scores are conditioned, more is no rounding
_LONGEST_BODIES = 20.0  # seconds for going through the bodies of a run


class InconsistentError(Exception):
    """A run selected what rounding of the scores does not explain, or from other scores. The message names the node."""


@dataclass(frozen=True)
class Run:
    """A run in onnxruntime.

    Attributes:
        outputs: by name. inside: what selections made and, if wanted, read; by `_place` and name.
    """

    outputs: Values
    inside: Values


def observed(model: Model, feeds: Values, *, optimized: bool, scores: bool) -> Run:
    """Run a model in onnxruntime with what selections make, and if wanted what they read, for further outputs.

    What bodies of control flow select is what they do without optimizations, given what they were given in the run.
    What is gathered of a selection counts as one: it may have the name that the selection has in the other model.

    Raises:
        RefusedError: when onnxruntime does not run it.
    """
    nodes = model.skeleton.graph.node
    made = {name for node in nodes for name in node.output if name}
    wanted = [name for node in nodes if selects(node) for name in (*(read_by(node) if scores else ()), chosen_by(node))]
    chosen = {chosen_by(node) for node in nodes if selects(node)}
    wanted += [node.output[0] for node in nodes if _gathers(node) and node.input[0] in chosen]
    bodies = [(index, node) for index, node in enumerate(nodes) if selects_inside(node)]
    wanted += [name for _, node in bodies for name in read_names(node)]
    outputs = [value.name for value in model.skeleton.graph.output]
    names = [name for name in dict.fromkeys(wanted) if name in made]
    session = Session(Source(with_outputs(model, names)), optimized=optimized)
    found = session.run(feeds, [*dict.fromkeys((*outputs, *names))])
    inside = {name: found[name] for name in names}
    if bodies:
        inside.update(_in_bodies(model, bodies, {**feeds, **inside}))
    return Run({name: found[name] for name in outputs}, inside)


def _in_bodies(model: Model, bodies: list[tuple[int, NodeProto]], tensors: Values) -> Values:
    pieces, found = Pieces(model, _LONGEST_BODIES, rounded=True), dict[str, Any]()

    def note(step: Step) -> Values:
        if selects(step.node):
            values = {**step.inputs, **step.made}
            found.update({step.where + name: values[name] for name in (*read_by(step.node), chosen_by(step.node))})
        return step.made

    for index, node in bodies:
        given = {name: tensors[name] for name in read_names(node) if name in tensors}
        stored = {name: model.initializers[name].array for name in read_names(node) if name in model.initializers}
        settled(pieces.inside(index, {**stored, **given}), note)
    return found


class Walk:
    """An evaluation in float64 that follows what a run of the same model selected, as far as it has come."""

    def __init__(self, steps: Steps, run: Run) -> None:
        """Begin; nothing is evaluated yet."""
        self._steps, self._run = steps, run
        self._made: Values | None = None
        self._outputs: Values | None = None
        self._scores: dict[str, Values] = {}

    def scores(self, place: str) -> Values:
        """Go on to a selection and return what it reads in float64, by name; nothing the second time."""
        while place not in self._scores and self._outputs is None:
            self._advance()
        return self._scores.pop(place, {})

    def finish(self) -> Values:
        """Go on to the end and return the outputs."""
        while self._outputs is None:
            self._scores.clear()
            self._advance()
        return self._outputs

    def _advance(self) -> None:
        try:
            step = next(self._steps) if self._made is None else self._steps.send(self._made)
        except StopIteration as end:
            self._outputs = end.value
            return
        if selects(step.node):
            self._scores[_place(step)] = {name: step.inputs[name] for name in read_by(step.node)}
        elif _gathers(step.node) and (scores := self._scores.get(step.where + step.node.input[0])):
            self._scores[_place(step)] = {name: _gathered(step, value) for name, value in scores.items()}
        self._made = _following(step, self._run)


class Learner:
    """Follows a run of the same model, and notes how far rounding moves what selections are made from."""

    def __init__(self, run: Run, types: set[int], slack: dict[str, float]) -> None:
        """Fill ``slack``, by `_place` and name, in the scale of what is read. ``types`` are the model's own."""
        self._run, self._slack = run, slack
        self._floor = default_tolerance(types, 0.0, measured=False)

    def __call__(self, step: Step) -> Values:
        """Return what counts as made."""
        if selects(step.node):
            for name in filter(lambda name: floating(step.inputs[name]), read_by(step.node)):
                exact = step.inputs[name]
                found = difference(exact, self._run.inside.get(step.where + name, exact))
                relative = 0.0 if found.problem else found.relative(found.scale)
                self._slack[step.where + name] = found.scale * max(self._floor, min(_HONEST * relative, _WORST_SCORES))
        return _following(step, self._run)


class Judge:
    """Lets the original select what a run of the minimized model did, if rounding can make it do so."""

    def __init__(
        self, run: Run, types: set[int], slack: dict[str, float], other: Walk, strict: Callable[[], float]
    ) -> None:
        """Take the run, and what it is judged by.

        Args:
            run: of the minimized model. types: the original's own. slack: how far rounding moves what is read.
            other: the minimized model in float64, given the same run.
            strict: tells how far scores may lie apart in float64 as far as it has come, relative to their scale.
        """
        self._run, self._slack, self._other, self._strict = run, slack, other, strict
        self._floor = default_tolerance(types, 0.0, measured=False)

    def __call__(self, step: Step) -> Values:
        """Return what counts as made.

        Raises:
            InconsistentError: where rounding does not explain it.
        """
        place = _place(step)
        chosen = self._run.inside.get(place) if selects(step.node) else None
        names = [name for name in read_by(step.node) if floating(step.inputs[name])] if chosen is not None else []
        if chosen is None or not names:
            return step.made
        theirs = self._other.scores(place)
        for name in names:
            self._compare(step, name, theirs)
        room = {name: self._slack.get(step.where + name, self._floor * _scale(step.inputs[name])) for name in names}
        selection = Selection(step.node, step.inputs, step.made, chosen, room, step.again)
        if not selection.fits:
            chosen = self._aligned(step, names, theirs, chosen)
            if chosen is None:
                return step.made
            selection = replace(selection, chosen=chosen)
        if not selection.differs:
            return step.made
        if not selection.consistent:
            raise InconsistentError(f"{_told(step)} selects what rounding of its scores does not explain")
        return selection.settled()

    def _compare(self, step: Step, name: str, theirs: Values) -> None:
        """Scores of one shape are the same in float64."""
        found = difference(step.inputs[name], theirs.get(name, step.inputs[name]))
        comparable = not found.problem or "NaN" in found.problem
        if comparable and not Tolerance(self._strict()).allows(found, found.scale):
            raise _other_scores(step, name)

    def _aligned(self, step: Step, names: list[str], theirs: Values, chosen: Array) -> Array | None:
        """Return what a narrower tensor was selected to be in its place among the original's own choices."""
        made = step.made[chosen_by(step.node)]
        for name in filter(lambda name: floating(theirs.get(name)), names):
            ours, other = step.inputs[name], theirs[name]
            axis = int(attribute(step.node, "axis", 0))
            lost = made.ndim == ours.ndim - 1  # ArgMax has no place left for its axis
            parts = [np.expand_dims(each, axis) if lost else each for each in (made, chosen)]
            try:
                found = aligned(ours, other, parts[0], parts[1], self._strict() * _scale(ours))
            except NotFoundError:
                raise _other_scores(step, name) from None
            if found is not None:
                return np.asarray(found.reshape(made.shape))
        return None


def _gathers(node: NodeProto) -> bool:
    return node.op_type == "Gather" and node.domain in ("", "ai.onnx")


def _gathered(step: Step, scores: Any) -> Any:
    """Return the scores of what a node gathers of a selection."""
    places, axis = step.inputs[step.node.input[1]], int(attribute(step.node, "axis", 0))
    if not floating(scores) or scores.ndim != step.inputs[step.node.input[0]].ndim:
        return scores
    return np.take(scores, places, axis)


def _following(step: Step, run: Run) -> Values:
    """Return what a node makes if it selects what a run did."""
    chosen = run.inside.get(_place(step)) if selects(step.node) else None
    if chosen is None or not any(floating(step.inputs[name]) for name in read_by(step.node)):
        return step.made
    selection = Selection(step.node, step.inputs, step.made, chosen, {}, step.again)
    return selection.settled() if selection.fits and selection.differs else step.made


def _other_scores(step: Step, name: str) -> InconsistentError:
    return InconsistentError(f"in float64 the scores that {_told(step)} selects from differ in '{name}'")


def _place(step: Step) -> str:
    """Return by what a selection is known in both models."""
    return step.where + chosen_by(step.node)


def _scale(value: Array) -> float:
    return difference(value, value).scale


def _told(step: Step) -> str:
    return f"{step.node.name or step.node.output[0]} ({step.node.op_type})"
