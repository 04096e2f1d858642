"""What to do next, from what a report found."""

from __future__ import annotations

from collections.abc import Iterable

from onnxsqueeze.coupling.keep_reason import PAGE, Reason
from onnxsqueeze.reporting.report import Report

_LITTLE = 1.02  # times fewer weights, up to which little was won
_SCATTERED = 0.2  # of the weights are zeros that stay
_NEXT = {
    Reason.OVERRIDABLE: "Weights are listed as graph inputs, which callers may replace.",
    Reason.UNKNOWN_OPERATOR: "An operator without a rule keeps what it touches: the reasons name it.",
    Reason.NEEDED: "Channels stay because others at the same place in a sum are read.",
}


def disagreement(report: Report) -> str:
    """Return what masks that agree would leave, "" where it is not much less."""
    if report.agreed_share is None:
        return ""
    sums = f"{report.disagreements} residual {'sum' if report.disagreements == 1 else 'sums'}"
    left = f"{100 * report.agreed_share:.0f} %"
    return f"your masks disagree at {sums}; masks that agree would leave {left} of the layers' weights"


def advice(report: Report) -> tuple[str, ...]:
    """Return what a user could do for a smaller model, the most promising first; nothing where much was won."""
    found: list[str] = []
    weights = sum(layer.weights_before for layer in report.layers)
    zeros = sum(layer.sparsity * layer.weights_before for layer in report.layers)
    if weights and not zeros:
        found.append(
            "No weight is zero: this model is dense. `onnxsqueeze squeeze` makes a dense model small by samples."
        )
    elif report.ratio < _LITTLE and zeros > _SCATTERED * weights:
        found.append(
            "The zeros are scattered over rows and columns. Only whole units can leave: prune rows of weights "
            "(channels, hidden units, heads), or let `onnxsqueeze squeeze` choose them."
        )
    given = {Reason.of(text) for text in report.stayed}
    found.extend(f"{text} {reason.remedy}" for reason, text in _NEXT.items() if reason in given and report.ratio < 2)
    return tuple(found)


def remedy(text: str) -> str:
    """Return what can be done about a reason as a report gives it, "" for other texts."""
    reason = Reason.of(text)
    return "" if reason is None else reason.remedy


def remedies(texts: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return of the reasons that reports give, each once: its words, what can be done, and where it is explained."""
    found = dict.fromkeys(reason for reason in map(Reason.of, texts) if reason is not None)
    return [(reason.words, reason.remedy, f"{PAGE}#{reason.anchor}") for reason in found]
