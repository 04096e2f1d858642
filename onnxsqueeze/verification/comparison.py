"""The steps of a verification: run both models on the same inputs in all the ways there are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import TensorProto

from onnxsqueeze.model.model import Model
from onnxsqueeze.verification.cases import Case, CaseFinder, Request
from onnxsqueeze.verification.dimension_sizes import Sizes
from onnxsqueeze.verification.evidence import FLOAT64, OPTIMIZED, Evidence, Finding
from onnxsqueeze.verification.float64 import (
    SECOND_LOOK,
    USUAL,
    Budget,
    Open,
    evaluate_original,
    in_float64,
    stores_new_values,
)
from onnxsqueeze.verification.locate import first_deviating
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.randomness import random_operators, seeded
from onnxsqueeze.verification.report import OutputReport, VerifyReport
from onnxsqueeze.verification.second_opinion import SecondOpinion
from onnxsqueeze.verification.sessions import RefusedError, Session, Values
from onnxsqueeze.verification.signature import signature_difference
from onnxsqueeze.verification.widen_types import widened

Progress = Callable[[str, float], None]
"""Is told what is being done and which fraction of the whole, 0 to 1, lies behind."""


class FailedError(Exception):
    """Verification has failed or cannot be done.

    Attributes:
        first_deviating: the layer where the models part, if one was found.
    """

    def __init__(self, reason: str, first_deviating: str | None = None) -> None:
        super().__init__(reason)
        self.first_deviating = first_deviating


@dataclass
class Record:
    """What has been found so far, for the report.

    Attributes:
        sizes: the sizes of the dynamic dimensions that were drawn for.
        notes: what the reader should know of the evidence.
        evidence: the compared outputs; None until the original has run.
        settled_in_float64: whether float64 decided on runs that deviated by more than is allowed without it.
    """

    sizes: list[Sizes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evidence: Evidence | None = None
    settled_in_float64: bool = False

    def report(self, error: FailedError | None = None) -> VerifyReport:
        """Sum it up; an error says that verification failed and why."""
        outputs = self.evidence.outputs() if self.evidence else ()
        findings = self.evidence.findings if self.evidence else []
        worst = max(outputs, key=_excess, default=None)
        doubled = [output.float64_deviation for output in outputs if output.float64_deviation is not None]
        return VerifyReport(
            passed=error is None,
            deviation=worst.deviation if worst else math.inf if self.evidence is None else 0.0,
            tolerance=worst.tolerance if worst else 0.0,
            outputs=outputs,
            first_deviating=error.first_deviating if error else None,
            runs=len({(id(finding.case), finding.how) for finding in findings}),
            reason=str(error) if error else "",
            float64_deviation=max(doubled) if doubled else None,
            sizes=tuple(self.sizes),
            notes=tuple(self.notes),
            settled_in_float64=self.settled_in_float64,
        )


class Comparison:
    """One verification. Sessions are made one after another, so that one model at a time is in onnxruntime's memory."""

    def __init__(self, original: Source, minimized: Source, record: Record, progress: Progress) -> None:
        """Take both models, and what is to be told of the work as it goes on."""
        self._original = original
        self._minimized = minimized
        self._float_types = original.float_types
        self._random = random_operators(original.skeleton)
        self._record = record
        self._notes = record.notes
        self._progress = progress
        self._open: Open | None = None

    def run(self, request: Request, rtol: float | None, atol: float | None) -> None:
        """Compare the models.

        Raises:
            FailedError: when they differ or when that cannot be told.
            UsageError: when the request does not fit the original.
        """
        if reason := signature_difference(self._original, self._minimized):
            raise FailedError(reason)
        self._make_comparable()
        self._progress("running the original", 0.1)
        cases = self._find_cases(request)
        evidence = self._record.evidence = Evidence(cases, self._float_types, rtol, atol)
        self._progress("running the original, optimized", 0.3)
        optimized = self._run_original_optimized(cases, evidence)
        self._progress("running the minimized model", 0.5)
        actual = self._run_minimized(evidence, dict(enumerate(case.expected for case in cases)), cases, False)
        self._progress("running the minimized model, optimized", 0.65)
        self._run_minimized(evidence, optimized, cases, True)
        self._progress("evaluating in float64", 0.8)
        indexed = dict(enumerate(cases))
        obstacle = self._evaluate(indexed, evidence, actual, USUAL)
        if (doubtful := evidence.doubtful()) is not None:
            self._progress("taking a second look at a deviation in float64", 0.85)
            worst = {index: case for index, case in indexed.items() if case is doubtful}
            obstacle = self._evaluate(worst, evidence, actual, SECOND_LOOK) and obstacle
        if obstacle:
            self._notes.append(f"not evaluated in float64: {obstacle}")
        self._judge(evidence)
        self._progress("verified", 1.0)

    def _make_comparable(self) -> None:
        """Rewrite both models where they would draw different random numbers, or onnxruntime could not run them."""
        if self._random:
            self._notes.append(f"{', '.join(self._random)} got fixed seeds, so that both models draw the same numbers")
            self._original, self._minimized = seeded(self._original), seeded(self._minimized)
        if TensorProto.BFLOAT16 in self._float_types:
            self._notes.append("bfloat16 was computed as float32, since onnxruntime lacks most of its kernels")
            self._original, self._minimized = _without_bfloat16(self._original), _without_bfloat16(self._minimized)

    def _find_cases(self, request: Request) -> list[Case]:
        try:
            session = Session(self._original, optimized=False)
        except RefusedError as error:
            reason = f"cannot verify: onnxruntime refuses the original: {error}"
            raise FailedError(reason) from None
        if session.in_blocks:
            self._notes.append("run block by block, since it is large for the memory")
        found = CaseFinder(self._original, session, request).find()
        self._record.sizes += found.sizes
        self._notes += found.notes
        if not self._random:
            return found.cases
        # The trials have moved the random generators on: every session must run the same cases from its beginning.
        fresh = Session(self._original, optimized=False)
        try:
            return [replace(case, expected=fresh.run(case.feeds)) for case in found.cases]
        except RefusedError as error:
            raise FailedError(f"cannot verify: onnxruntime runs the original only at times: {error}") from None

    def _run_original_optimized(self, cases: Sequence[Case], evidence: Evidence) -> dict[int, Values]:
        """Return the outputs by the index of the case; none where onnxruntime's optimizations break the original."""
        found: dict[int, Values] = {}
        try:
            session = Session(self._original, optimized=True)
            for index, case in enumerate(cases):
                found[index] = session.run(case.feeds)
                if not self._random:  # an optimized graph may draw its numbers in another order
                    evidence.add_yardstick(case, found[index])
        except RefusedError as error:
            self._notes.append(f"with graph optimizations on, onnxruntime refuses the original: {error}")
        return found

    def _run_minimized(
        self, evidence: Evidence, expected: dict[int, Values], cases: Sequence[Case], optimized: bool
    ) -> list[Values]:
        """Compare the runs for which there are outputs to expect, and return what came."""
        if not expected:
            return []
        how, actual = OPTIMIZED[optimized], []
        try:
            session = Session(self._minimized, optimized=optimized)
        except RefusedError as error:
            raise FailedError(f"onnxruntime refuses the minimized model with {how}: {error}") from None
        for index, outputs in expected.items():
            case = cases[index]
            try:
                actual.append(session.run(case.feeds))
            except RefusedError as error:
                raise FailedError(
                    f"onnxruntime runs the original on {case.label} but not the minimized model, with {how}: {error}"
                ) from None
            evidence.add(case, how, outputs, actual[-1])
        return actual

    def _evaluate(self, cases: Mapping[int, Case], evidence: Evidence, actual: Sequence[Values], budget: Budget) -> str:
        """Evaluate both models in float64 and compare; say why that is not possible, or "" where it was.

        An evaluator that gives something else than onnxruntime for one and the same model is not believed.
        """
        if self._random:
            return f"{', '.join(self._random)} would draw other numbers"
        original = evaluate_original(self._original, cases, budget)
        if original.open is None:
            return original.reason
        try:
            evaluate = original.open(in_float64(self._minimized.model()))
            minimized = {index: evaluate(cases[index].feeds) for index in original.results}
        except RefusedError as error:
            return f"the minimized model is refused: {error}"
        for index, outputs in original.results.items():
            case = cases[index]
            deviation = evidence.implausible(case, case.expected, outputs)
            if deviation := max(deviation, evidence.implausible(case, actual[index], minimized[index])):
                return f"the result is not onnxruntime's, by {deviation:.1e} of its scale"
        self._open = original.open
        for index, outputs in original.results.items():
            evidence.add_yardstick(cases[index], outputs, float64=True)
            evidence.add(cases[index], FLOAT64, outputs, minimized[index])
        if any(finding.how == FLOAT64 for finding in evidence.failures()):
            evidence.stores_new_values = stores_new_values(self._original.model(), self._minimized.model())
        return ""

    def _judge(self, evidence: Evidence) -> None:
        if names := evidence.uninformative():
            raise FailedError(
                f"output '{names[0]}' was NaN or Inf throughout in every run, so that nothing was compared"
                + ("; give samples on which the model works with --inputs FILE.npz" if self._original.inputs else "")
            )
        if not evidence.failures():
            return
        objection = self._second_opinion(evidence)
        failures = evidence.failures()
        if failures:
            self._progress("looking for the first layer that deviates", 0.95)
            first = self._locate(failures[0], evidence)
            raise FailedError(evidence.describe(failures[0], first, objection), first)

    def _second_opinion(self, evidence: Evidence) -> str:
        """Let float64 decide on the runs that failed; say what it objects to in the first that it does not excuse.

        Not where the user has said what to allow, or where random numbers would be others.
        """
        if evidence.rtol is not None or self._random:
            return ""
        self._progress("letting float64 decide, node by node", 0.9)
        evidence.stores_new_values = evidence.stores_new_values or self._stores_new_values()
        opinion = SecondOpinion(self._original, self._minimized)
        opinion.learn(list({id(each.case): each.case for each in evidence.findings}.values()))
        by_case: dict[int, list[Finding]] = defaultdict(list)
        for finding in evidence.failures():
            by_case[id(finding.case)].append(finding)
        for findings in by_case.values():
            case = findings[0].case
            hows = {finding.how for finding in findings}
            wanted = [optimized for optimized, how in OPTIMIZED.items() if how in hows] or [False]
            for optimized in wanted:
                if objection := opinion.objection(case, optimized, evidence.limits(case)):
                    return objection
            evidence.excuse(findings)
        self._record.settled_in_float64 = True
        count = f"{len(by_case)} {'input' if len(by_case) == 1 else 'inputs'}"
        self._notes.append(
            f"on {count} the runs deviate by more than rounding does as a rule; evaluated in float64, both models are "
            "the same there, given what each run selected"
        )
        return ""

    def _stores_new_values(self) -> bool:
        """Whether the minimized model stores other numbers; of large models it is taken for granted."""
        if max(self._original.weights, self._minimized.weights) > SECOND_LOOK.onnxruntime_weights:
            return True
        return stores_new_values(self._original.model(), self._minimized.model())

    def _locate(self, finding: Finding, evidence: Evidence) -> str | None:
        """Return the first layer to deviate in a run, run in the same way."""
        original, minimized, feeds = self._original.model(), self._minimized.model(), finding.case.feeds
        if finding.how == FLOAT64:
            original, minimized = in_float64(original), in_float64(minimized)

        def run(model: Model, names: Sequence[str]) -> Values:
            if finding.how == FLOAT64 and self._open is not None:
                return self._open(model)(feeds)
            return Session(Source(model), optimized=finding.how == OPTIMIZED[True]).run(feeds, names)

        tolerance = evidence.tolerance_of_layers(finding)
        node = first_deviating(original, minimized, finding.output, run, tolerance)
        return None if node is None else f"{node.name or node.output[0]} ({node.op_type})"


def _without_bfloat16(source: Source) -> Source:
    return Source(widened(source.model(), [TensorProto.BFLOAT16], TensorProto.FLOAT))


def _excess(output: OutputReport) -> tuple[float, float]:
    """Order outputs by how far they are beyond their tolerance."""
    if output.tolerance == 0:
        return (math.inf if output.deviation or output.mismatches else 0.0, output.deviation)
    return (output.deviation / output.tolerance, output.deviation)
