"""What a verification found."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxsqueeze.errors import SqueezeError


@dataclass(frozen=True)
class OutputReport:
    """One graph output, over all runs.

    Attributes:
        name: the output's name.
        deviation: the largest deviation of the minimized model from the original, relative to `scale`, in the model's
            own precision; infinite where the outputs cannot be compared (another shape, NaN at other places).
        tolerance: the largest deviation that passes. 0 for outputs that are not floating-point numbers.
        scale: the largest magnitude that the original gives.
        yardstick: how far rounding alone moves the original: the larger of its float32-to-float64 deviation, where that
            was evaluated, and of the difference between its runs with and without graph optimizations.
        mismatches: how many elements differ at all, for integers, booleans and strings; 0 for floating-point numbers.
        float64_deviation: as `deviation`, with both models evaluated in float64; None where that was not done.
        float64_tolerance: the largest `float64_deviation` that passes; None where that was not done.
    """

    name: str
    deviation: float
    tolerance: float
    scale: float
    yardstick: float
    mismatches: int = 0
    float64_deviation: float | None = None
    float64_tolerance: float | None = None


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of a verification.

    Attributes:
        passed: whether the two models are equivalent as far as was tried.
        deviation: the deviation of the output that came nearest to its tolerance, or exceeded it most, relative to that
            output's scale; infinite where outputs could not be compared.
        tolerance: the tolerance of that same output.
        outputs: the details, in the order of the graph's outputs; empty where nothing was run.
        first_deviating: the first layer whose output deviates: its node's name and operator and the tensor's name. None
            where verification passed or no layer could be singled out.
        runs: how many times the minimized model was run and compared.
        seconds: the time that all of it took.
        reason: why it did not pass; "" where it did.
        float64_deviation: the largest deviation with both models evaluated in float64; None where that was not done,
            and then `notes` say why.
        sizes: the sizes of the dynamic dimensions that were tried; one empty entry where there are none.
        notes: what a reader should know of the evidence, such as a dimension that could be tried at one size only.
        settled_in_float64: whether runs deviated by more than `tolerance`, and float64 showed that to be rounding.
        crashed: whether onnxruntime crashed, so that nothing was compared.
    """

    passed: bool
    deviation: float
    tolerance: float
    outputs: tuple[OutputReport, ...] = ()
    first_deviating: str | None = None
    runs: int = 0
    seconds: float = 0.0
    reason: str = ""
    float64_deviation: float | None = None
    sizes: tuple[dict[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    settled_in_float64: bool = False
    crashed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON, which knows no infinity: None stands for it."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class VerificationError(SqueezeError):
    """The minimized model does not compute what the original computes.

    Attributes:
        report: what was compared and where it differed.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, report: VerifyReport) -> None:
        super().__init__(message, report)  # both, so that the error survives pickling between processes
        self.report = report

    def __str__(self) -> str:
        return str(self.args[0])

    def details(self) -> dict[str, Any]:
        """Return the report of the comparison."""
        return {"verification": self.report.to_dict()}
