"""Collect how the outputs of all runs differ, and judge them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsqueeze.verification.cases import Case
from onnxsqueeze.verification.difference import (
    Array,
    Difference,
    Tolerance,
    default_tolerance,
    difference,
    float64_tolerance,
    is_floating,
    largest_plausible,
    leaves,
)
from onnxsqueeze.verification.report import OutputReport
from onnxsqueeze.verification.second_opinion import Limits
from onnxsqueeze.verification.sessions import Values

OPTIMIZED = {False: "graph optimizations off", True: "graph optimizations on"}
FLOAT64 = "both models in float64"


@dataclass(frozen=True)
class Finding:
    """One output of one run, compared.

    Attributes:
        output: its name.
        case: the run.
        how: how the models were run: one of `OPTIMIZED`, or `FLOAT64`.
        difference: how far the minimized model's output is from the original's.
    """

    output: str
    case: Case
    how: str
    difference: Difference


class Evidence:
    """All findings of a verification.

    An output's scale is its largest magnitude over all drawn runs, and over all of the user's own runs: a single run
    may give a number near 0 by chance, to which rounding is not small.
    """

    def __init__(self, cases: Sequence[Case], float_types: set[int], rtol: float | None, atol: float | None) -> None:
        """Start with the original's own outputs.

        Args:
            cases: the runs.
            float_types: the floating-point types that the model uses.
            rtol: replaces the default tolerance relative to an output's scale.
            atol: an absolute difference that is allowed besides.
        """
        self.findings: list[Finding] = []
        self.stores_new_values = False
        self.excused: set[int] = set()
        self._float_types = float_types
        self.rtol = rtol
        self._atol = atol or 0.0
        self._names = list(cases[0].expected)
        self._scales: dict[tuple[bool, str], float] = defaultdict(float)
        self._yardsticks: dict[str, float] = defaultdict(float)
        self._floating: set[str] = set()
        self._uninformative = set(self._names)
        self._measured = False
        for case in cases:
            self._add_expected(case)

    def _add_expected(self, case: Case) -> None:
        for name, value in case.expected.items():
            arrays = leaves(value)
            if any(is_floating(array) for array in arrays):
                self._floating.add(name)
            if not arrays or any(map(_tells_something, arrays)):
                self._uninformative.discard(name)
            key = (case.given, name)
            self._scales[key] = max(self._scales[key], difference(value, value).scale)

    def uninformative(self) -> list[str]:
        """Return the outputs that were NaN or Inf throughout, in every run."""
        return [name for name in self._names if name in self._uninformative]

    def add_yardstick(self, case: Case, other: Values, *, float64: bool = False) -> None:
        """Take note of what rounding does to the original: its outputs in another evaluation, in float64 or not."""
        self._measured |= float64
        for name in self._floating:
            relative = difference(case.expected[name], other[name]).relative(self.scale(case, name))
            if math.isfinite(relative):
                self._yardsticks[name] = max(self._yardsticks[name], relative)

    def implausible(self, case: Case, expected: Values, other: Values) -> float:
        """Return by how much two evaluations of one model deviate if that is more than rounding, else 0."""
        found = [difference(expected[name], other[name]).relative(self.scale(case, name)) for name in self._floating]
        largest = max(found, default=0.0)
        return largest if largest > largest_plausible(self._float_types) else 0.0

    def add(self, case: Case, how: str, expected: Values, actual: Values) -> None:
        """Compare the outputs of one run."""
        for name in self._names:
            self.findings.append(Finding(name, case, how, difference(expected[name], actual[name])))

    def failures(self) -> list[Finding]:
        """Return the findings that are more than the tolerance, in the order of the runs."""
        return [
            finding
            for finding in self.findings
            if id(finding) not in self.excused
            and not self.tolerance(finding.output, finding.how).allows(
                finding.difference, self.scale(finding.case, finding.output)
            )
        ]

    def doubtful(self) -> Case | None:
        """Return the case with the largest deviation, if it takes float64 to tell whether that is rounding, else None.

        That is so if it is neither within the strict tolerance, nor beyond any rounding, nor in float64 itself.
        """
        if self.rtol is not None or not self.findings:
            return None
        worst = max(self.findings, key=self.relative)
        strict = default_tolerance(self._float_types, self._yardsticks[worst.output], measured=True)
        small = self.relative(worst) <= largest_plausible(self._float_types) and worst.output in self._floating
        failed = any(finding.how == FLOAT64 for finding in self.failures())
        return worst.case if small and not failed and self.relative(worst) > strict else None

    def limits(self, case: Case) -> dict[str, Limits]:
        """Return by output what a second opinion may allow in a case: no more than is allowed without it."""
        found = {}
        for name in self._names:
            own, scale = self.tolerance(name, OPTIMIZED[False]), self.scale(case, name)
            rounded = default_tolerance(self._float_types, 0.0, measured=True)
            judged = self._measured or not self.stores_new_values
            known = float64_tolerance(
                self._float_types, self._yardsticks[name], stores_new_values=self.stores_new_values
            )
            float64 = min(rounded, known) if judged else rounded
            found[name] = Limits(scale, own, float64, rounded)
        return found

    def excuse(self, findings: Collection[Finding]) -> None:
        """Leave findings out of the failures: a second opinion has accounted for them."""
        self.excused.update(map(id, findings))

    def scale(self, case: Case, name: str) -> float:
        """Return the scale of an output in a run."""
        return self._scales[case.given, name]

    def relative(self, finding: Finding) -> float:
        """Return a finding's deviation, relative to the output's scale."""
        return finding.difference.relative(self.scale(finding.case, finding.output))

    def tolerance(self, name: str, how: str) -> Tolerance:
        """Return the tolerance of an output."""
        if name not in self._floating:
            return Tolerance(0.0)
        yardstick = self._yardsticks[name]
        if how == FLOAT64:
            tolerance = float64_tolerance(self._float_types, yardstick, stores_new_values=self.stores_new_values)
            return Tolerance(max(tolerance, self.rtol or 0.0), self._atol)
        default = default_tolerance(self._float_types, yardstick, measured=self._measured)
        return Tolerance(default if self.rtol is None else self.rtol, self._atol)

    def tolerance_of_layers(self, finding: Finding) -> Tolerance:
        """Return how far a tensor inside may deviate in the run of a finding: as far as a floating-point output."""
        name = finding.output if finding.output in self._floating else None
        yardstick = self._yardsticks[name] if name else max(self._yardsticks.values(), default=0.0)
        if finding.how == FLOAT64:
            tolerance = float64_tolerance(self._float_types, yardstick, stores_new_values=self.stores_new_values)
            return Tolerance(tolerance)
        return Tolerance(default_tolerance(self._float_types, yardstick, measured=self._measured))

    def describe(self, finding: Finding, first_deviating: str | None, objection: str = "") -> str:
        """Say in one line what failed."""
        one, tolerance = finding.difference, self.tolerance(finding.output, finding.how)
        if one.problem:
            what = one.problem
        elif one.exact:
            what = f"it differs in {one.mismatches} elements, which must be equal"
        else:
            scale = self.scale(finding.case, finding.output)
            allowed = tolerance.of(scale)
            what = f"it deviates by {self.relative(finding):.1e} of its scale, where {allowed:.1e} is allowed"
        parts = [f"output '{finding.output}' is not the original's on {finding.case.label} with {finding.how}: {what}"]
        if first_deviating:
            parts.append(f"the first layer to deviate is {first_deviating}")
        if objection:
            parts.append(f"float64 does not settle it: {objection}")
        elif one.exact and not one.problem:
            parts.append("where what it is computed from ties to within rounding, that alone can do it")
        if self._yardsticks[finding.output] > largest_plausible(self._float_types):
            parts.append(f"the original disagrees with itself by {self._yardsticks[finding.output]:.1e}")
            if (enough := self._enough()) is not None:
                parts.append(f"to accept that, set --rtol {enough:.0e}")
        return "; ".join(parts)

    def _enough(self) -> float | None:
        """Return a relative tolerance that would let everything pass; None where there is none."""
        failures = self.failures()
        if any(one.difference.exact or one.difference.problem for one in failures):
            return None
        largest = max(map(self.relative, failures), default=math.inf)
        return 2 * largest if largest < 1 else None

    def outputs(self) -> tuple[OutputReport, ...]:
        """Sum up by output."""
        return tuple(self._output(name) for name in self._names)

    def _output(self, name: str) -> OutputReport:
        findings = [finding for finding in self.findings if finding.output == name]
        run = [finding for finding in findings if finding.how != FLOAT64]
        doubled = [self.relative(finding) for finding in findings if finding.how == FLOAT64]
        scale = max((value for (_, output), value in self._scales.items() if output == name), default=0.0)
        return OutputReport(
            name=name,
            deviation=max((self.relative(finding) for finding in run), default=0.0),
            tolerance=self.tolerance(name, OPTIMIZED[False]).of(scale),
            scale=scale,
            yardstick=self._yardsticks[name],
            mismatches=max((finding.difference.mismatches for finding in findings), default=0),
            float64_deviation=max(doubled) if doubled else None,
            float64_tolerance=self.tolerance(name, FLOAT64).of(scale) if doubled else None,
        )


def _tells_something(array: Array) -> bool:
    """Whether an output, if it is a floating-point one, is more than NaN and Inf."""
    return not array.size or not is_floating(array) or bool(np.isfinite(array).any())
