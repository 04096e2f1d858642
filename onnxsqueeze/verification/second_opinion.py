"""When runs in the models' own type disagree, float64 decides, however large the models are.

A run of the minimized model is right if

- evaluated in float64, node by node, both models give the same, to less than any run could show;
- the run itself is as near to what the original gives in float64 as the original's own runs are, within the factor that
  two honest roundings may lie apart.

Both are judged given what the run selected (see `selections`): a selection must be one that rounding of the original's
scores can explain, and what comes after it is evaluated with it. No tolerance is any wider than without all this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from onnx import NodeProto

from onnxsqueeze.model.model import Model
from onnxsqueeze.verification.cases import Case
from onnxsqueeze.verification.credentials import untrusted
from onnxsqueeze.verification.difference import Difference, Tolerance, default_tolerance, difference, largest_plausible
from onnxsqueeze.verification.locate import with_outputs
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.pieces import Pieces
from onnxsqueeze.verification.selections import InconsistentError, Selection, chosen_by, floating, read_by, selects
from onnxsqueeze.verification.sessions import RefusedError, Session, Values

SECONDS = 60.0
"""For all evaluations of one model."""

_LEARNING = 0.3  # of the time
_HONEST = 4  # two honest roundings of one thing lie so many times apart, at most
_WORST_SCORES = 0.1  # of their scale: however badly scores are conditioned, more is no rounding


@dataclass(frozen=True)
class Run:
    """A run in onnxruntime: the outputs, and what selections read and made, by name."""

    outputs: Values
    inside: Values


@dataclass(frozen=True)
class Limits:
    """What is allowed of an output.

    Attributes:
        scale: its scale. own: in the models' own type, in any case.
        float64: between both models in float64. rounded: the same where a node had to be computed in its own type.
    """

    scale: float
    own: Tolerance
    float64: float
    rounded: float


class SecondOpinion:
    """Judges runs of a minimized model in float64."""

    def __init__(self, original: Source, minimized: Source) -> None:
        """Take both models; all evaluations of each may take `SECONDS`."""
        self._models: dict[str, Model] = {"original": original.model(), "minimized": minimized.model()}
        self._pieces = {name: Pieces(model, SECONDS) for name, model in self._models.items()}
        self._types = original.float_types
        self._errors: dict[tuple[bool, str], float] = {}

    def learn(self, cases: Sequence[Case]) -> None:
        """Find out how far rounding takes the original, on as many cases as a part of the time allows."""
        pieces, enough = self._pieces["original"], SECONDS * (1 - _LEARNING)
        for case, optimized in ((case, optimized) for case in cases for optimized in (False, True)):
            with suppress(RefusedError):
                if pieces.left > enough:
                    self._rounding(case, optimized, {})

    def _rounding(self, case: Case, optimized: bool, slack: dict[str, float]) -> dict[str, Difference]:
        """Return by output how far a run of the original lies from float64, given what the run selected."""
        run = self._run("original", case, optimized)
        truth = self._pieces["original"].run(case.feeds, self._following(run, slack))
        found = {name: difference(truth[name], run.outputs[name]) for name in truth}
        for name, error in found.items():
            if math.isfinite(error.absolute):
                key = (case.given, name)
                self._errors[key] = max(self._errors.get(key, 0.0), error.absolute)
        return found

    def objection(self, case: Case, optimized: bool, limits: dict[str, Limits]) -> str:
        """Say why a run of the minimized model is not right; "" where it is.

        Args:
            case: the inputs. optimized: whether graph optimizations are on. limits: by output.
        """
        try:
            slack: dict[str, float] = {}
            errors = self._rounding(case, optimized, slack)
            if reason := self._doubt(case, errors, limits):
                return reason
            theirs = self._run("minimized", case, optimized)
            judging, following = self._judging(theirs, slack), self._following(theirs, None)
            truth = self._pieces["original"].run(case.feeds, judging)
            same = self._pieces["minimized"].run(case.feeds, following)
        except (RefusedError, InconsistentError) as error:
            return str(error)
        if name := self._other_scores(judging, following, min(limit.float64 for limit in limits.values())):
            return f"in float64 the scores in '{name}' differ"
        for name, limit in limits.items():
            strict = limit.float64 if all(each.exact for each in self._pieces.values()) else limit.rounded
            if not Tolerance(strict).allows(found := difference(truth[name], same[name]), limit.scale):
                return f"in float64 '{name}' differs, by {_told(found, limit.scale)}"
            room = Tolerance(
                0.0, max(limit.own.relative * limit.scale, _HONEST * self._errors.get((case.given, name), 0.0))
            )
            if not room.allows(found := difference(truth[name], theirs.outputs[name]), limit.scale):
                told = _told(found, limit.scale)
                return f"'{name}' lies further from float64 than rounding takes the original, by {told}"
        return ""

    def _other_scores(self, ours: _Settling, theirs: _Settling, float64: float) -> str:
        """Return the scores of one name and shape, read by selections, that differ in float64; "" for none."""
        exact = all(each.exact for each in self._pieces.values())
        strict = Tolerance(float64 if exact else default_tolerance(self._types, 0.0, measured=True))
        for name in ours.scores.keys() & theirs.scores.keys():
            found = difference(ours.scores[name], theirs.scores[name])
            comparable = not found.problem or "NaN" in found.problem
            if comparable and not strict.allows(found, found.scale):
                return name
        return ""

    def _run(self, which: str, case: Case, optimized: bool) -> Run:
        """Run a model in onnxruntime with what selections read and make for further outputs."""
        model = self._models[which]
        nodes = model.skeleton.graph.node
        made = {name for node in nodes for name in node.output if name}
        wanted = [name for node in nodes if selects(node) for name in (*read_by(node), chosen_by(node))]
        outputs = [value.name for value in model.skeleton.graph.output]
        names = [name for name in dict.fromkeys(wanted) if name in made]
        session = Session(Source(with_outputs(model, names)), optimized=optimized)
        found = session.run(case.feeds, [*dict.fromkeys((*outputs, *names))])
        return Run({name: found[name] for name in outputs}, {name: found[name] for name in names})

    def _following(self, run: Run, slack: dict[str, float] | None) -> _Settling:
        """Follow a run's selections as they are; note in ``slack`` how far rounding moves what they are made from."""
        return _Settling(run, self._types, slack, None)

    def _judging(self, run: Run, slack: dict[str, float]) -> _Settling:
        return _Settling(run, self._types, None, (slack, self._pieces["original"]))

    def _doubt(self, case: Case, errors: dict[str, Difference], limits: dict[str, Limits]) -> str:
        """Say why the evaluation is not believed: it is far from onnxruntime's, and not for the sake of rounding."""
        largest = largest_plausible(self._types)
        if all(Tolerance(largest).allows(error, limits[name].scale) for name, error in errors.items()):
            return ""
        return untrusted(self._models["original"], self._pieces["original"], case, largest)


class _Settling:
    """Puts what a run selected in the place of what float64 selects.

    Attributes:
        scores: what selections read, by name.
    """

    def __init__(
        self,
        run: Run,
        types: set[int],
        slack: dict[str, float] | None,
        judged: tuple[dict[str, float], Pieces] | None,
    ) -> None:
        self._run, self._slack, self._judged = run, slack, judged
        self.scores: Values = {}
        self._floor = default_tolerance(types, 0.0, measured=False)

    def __call__(self, node: NodeProto, inputs: Values, made: Values) -> Values:
        if not selects(node) or not any(floating(inputs.get(name)) for name in read_by(node)):
            return made
        self.scores.update({name: inputs[name] for name in read_by(node) if floating(inputs[name])})
        if self._slack is not None:
            self._slack.update({name: self._moved(name, inputs[name]) for name in read_by(node)})
        chosen = self._run.inside.get(chosen_by(node))
        if chosen is None:
            return made
        slack, pieces = self._judged or ({}, None)
        selection = Selection(node, inputs, made, chosen, slack, lambda given: _again(pieces, node, given))
        if not selection.fits or not selection.differs:
            return made
        if pieces is not None and not selection.consistent:
            label = f"{node.name or node.output[0]} ({node.op_type})"
            raise InconsistentError(f"{label} selects what rounding of its scores does not explain")
        return selection.settled()

    def _moved(self, name: str, exact: object) -> float:
        """Return how far rounding may move the elements of a tensor that the original makes."""
        if not floating(exact):
            return 0.0
        found = difference(exact, self._run.inside.get(name, exact))
        relative = 0.0 if found.problem else found.relative(found.scale)
        return found.scale * max(self._floor, min(_HONEST * relative, _WORST_SCORES))


def _again(pieces: Pieces | None, node: NodeProto, inputs: Values) -> Values:
    assert pieces is not None
    return pieces.evaluate_node(node, inputs)


def _told(found: Difference, scale: float) -> str:
    return found.problem or (f"{found.mismatches} elements" if found.exact else f"{found.relative(scale):.1e}")
