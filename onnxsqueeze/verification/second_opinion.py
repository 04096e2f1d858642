"""When runs in the models' own type disagree, float64 decides, however large the models are.

A run of the minimized model is right if

- evaluated in float64, node by node, both models give the same, to less than any run could show;
- the run itself is as near to what the original gives in float64 as the original's own runs are, within the factor that
  two honest roundings may lie apart.

Both are judged given what the run selected (see `selections`), codes of quantized networks above all: a selection must
be one that rounding of the original's scores can explain, and what comes after it is evaluated with it. Where channels
have gone, what the run selected is put in its place among the original's own (see `alignment`). No tolerance is any
wider than without all this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from onnxsqueeze.model.model import Model
from onnxsqueeze.verification.cases import Case
from onnxsqueeze.verification.credentials import untrusted
from onnxsqueeze.verification.difference import Difference, Tolerance, difference, largest_plausible
from onnxsqueeze.verification.following import InconsistentError, Judge, Learner, Run, Walk, observed
from onnxsqueeze.verification.model_source import Source, inlined
from onnxsqueeze.verification.pieces import Pieces
from onnxsqueeze.verification.sessions import RefusedError

SECONDS = 300.0
"""For all evaluations of one model; it is seldom that so many are needed, but a model of any size is to be judged."""

_LEARNING = 20.0  # seconds of that for what rounding does to the original
_HONEST = 4  # two honest roundings of one thing lie so many times apart, at most


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
        self._models = {"original": _flat(original), "minimized": _flat(minimized)}
        self._pieces = {name: Pieces(model, SECONDS) for name, model in self._models.items()}
        self._types = original.float_types
        self._errors: dict[tuple[bool, str], float] = {}
        self._learned: dict[tuple[int, bool], tuple[dict[str, Difference], dict[str, float]]] = {}

    def learn(self, cases: Sequence[Case]) -> None:
        """Find out how far rounding takes the original, on as many cases as a part of the time allows."""
        pieces, enough = self._pieces["original"], SECONDS - _LEARNING
        for case, optimized in ((case, optimized) for case in cases for optimized in (False, True)):
            with suppress(RefusedError):
                if pieces.left > enough:
                    self._rounding(case, optimized)

    def _rounding(self, case: Case, optimized: bool) -> tuple[dict[str, Difference], dict[str, float]]:
        """Return by output how far a run of the original lies from float64, given what the run selected.

        And how far rounding moves what selections read, by `Learner`.
        """
        key = id(case), optimized
        if key not in self._learned:
            self._learned[key] = self._measured(case, optimized)
        return self._learned[key]

    def _measured(self, case: Case, optimized: bool) -> tuple[dict[str, Difference], dict[str, float]]:
        slack: dict[str, float] = {}
        run = self._run("original", case, optimized)
        truth = self._pieces["original"].run(case.feeds, Learner(run, self._types, slack))
        found = {name: difference(truth[name], run.outputs[name]) for name in truth}
        for name, error in found.items():
            if math.isfinite(error.absolute):
                key = (case.given, name)
                self._errors[key] = max(self._errors.get(key, 0.0), error.absolute)
        return found, slack

    def objection(self, case: Case, optimized: bool, limits: dict[str, Limits]) -> str:
        """Say why a run of the minimized model is not right; "" where it is.

        Args:
            case: the inputs. optimized: whether graph optimizations are on. limits: by output.
        """
        try:
            errors, slack = self._rounding(case, optimized)
            if reason := self._doubt(case, errors, limits):
                return reason
            theirs = self._run("minimized", case, optimized)
            other = Walk(self._pieces["minimized"].steps(case.feeds), theirs)
            judge = Judge(theirs, self._types, slack, other, lambda: self._strict(limits.values()))
            truth = self._pieces["original"].run(case.feeds, judge)
            same = other.finish()
        except (RefusedError, InconsistentError) as error:
            return str(error)
        for name, limit in limits.items():
            if not Tolerance(self._strict([limit])).allows(found := difference(truth[name], same[name]), limit.scale):
                return f"in float64 '{name}' differs, by {_told(found, limit.scale)}"
            room = Tolerance(
                0.0, max(limit.own.relative * limit.scale, _HONEST * self._errors.get((case.given, name), 0.0))
            )
            if not room.allows(found := difference(truth[name], theirs.outputs[name]), limit.scale):
                told = _told(found, limit.scale)
                return f"'{name}' lies further from float64 than rounding takes the original, by {told}"
        return ""

    def _strict(self, limits: Iterable[Limits]) -> float:
        """Return how far the models may lie apart in float64, as far as they were evaluated in it."""
        exact = all(each.exact for each in self._pieces.values())
        return min(limit.float64 if exact else limit.rounded for limit in limits)

    def _run(self, which: str, case: Case, optimized: bool) -> Run:
        return observed(self._models[which], case.feeds, optimized=optimized, scores=which == "original")

    def _doubt(self, case: Case, errors: dict[str, Difference], limits: dict[str, Limits]) -> str:
        """Say why the evaluation is not believed: it is far from onnxruntime's, and not for the sake of rounding."""
        largest = largest_plausible(self._types)
        if all(Tolerance(largest).allows(error, limits[name].scale) for name, error in errors.items()):
            return ""
        return untrusted(self._models["original"], self._pieces["original"], case, largest)


def _flat(source: Source) -> Model:
    """Return a model without functions: what they select is judged like everything else."""
    model = source.model()
    return Model(inlined(model.skeleton), model.initializers)


def _told(found: Difference, scale: float) -> str:
    return found.problem or (f"{found.mismatches} elements" if found.exact else f"{found.relative(scale):.1e}")
