"""How far a network's outputs are from the original's, and how often its decision is the same.

What the outputs mean is seen by looking at them: scores of classes, vectors of one length, anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.errors import UsageError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

AUTO = "auto"
_MOST_CLASSES = 1 << 20
_ONE = 1e-3  # how far sums of probabilities, and lengths of vectors, may be from one number
_SMALLEST = 1e-12
_HALF, _LEAST = 0.5, 1e-6  # from which probability on a decision is yes, and which is told from none


@dataclass(frozen=True)
class Metric:
    """One way to judge outputs.

    Attributes:
        name: as ``--metric`` gives it. title: for a table.
        of: from the original's outputs and the others' to a number from 0 to 1, more is better.
        error: the same as an error that tells small differences apart, 0 where there is none.
    """

    name: str
    title: str
    of: Callable[[Array, Array], float]
    error: Callable[[Array, Array], float]


def _scores(array: Array, axis: int = -1) -> Floats:
    """Return classes along the last axis, one row for each decision."""
    moved = np.moveaxis(array.astype(np.float64), axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def _logs(scores: Floats) -> Floats:
    """Return logarithms of probabilities of scores, which may be those, or probabilities, already."""
    if _sums_to_one(scores):
        return np.asarray(np.log(np.maximum(scores, _SMALLEST)))
    top = scores.max(axis=1, keepdims=True)
    return np.asarray(scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True)))


def _sums_to_one(scores: Floats) -> bool:
    return bool((scores >= 0).all() and np.abs(scores.sum(axis=1) - 1).max(initial=0) < _ONE)


def _divergence(axis: int) -> Callable[[Array, Array], float]:
    def error(before: Array, after: Array) -> float:
        one, other = _logs(_scores(before, axis)), _logs(_scores(after, axis))
        return float((np.exp(one) * (one - other)).sum(axis=1).mean())

    return error


def _agreement(axis: int) -> Callable[[Array, Array], float]:
    def of(before: Array, after: Array) -> float:
        return float((_scores(before, axis).argmax(axis=1) == _scores(after, axis).argmax(axis=1)).mean())

    return of


def _relative(before: Array, after: Array) -> float:
    """Return the squared deviation relative to how much the original's outputs vary."""
    one, other = before.astype(np.float64), after.astype(np.float64)
    spread = ((one - one.mean(axis=0, keepdims=True)) ** 2).sum() if len(one) > 1 else (one**2).sum()
    return float(((one - other) ** 2).sum() / max(float(spread), _SMALLEST))


def _within(before: Array, after: Array) -> float:
    return max(0.0, 1.0 - float(np.sqrt(_relative(before, after))))


def _alike(before: Array, after: Array) -> float:
    return float(((before > _HALF) == (after > _HALF)).mean())


def _binary_divergence(before: Array, after: Array) -> float:
    """Return the divergence of each number as the probability of a yes."""
    one, other = (np.clip(array.astype(np.float64), _LEAST, 1 - _LEAST) for array in (before, after))
    return float((one * np.log(one / other) + (1 - one) * np.log((1 - one) / (1 - other))).mean())


def _cosine(before: Array, after: Array) -> float:
    one, other = _scores(before), _scores(after)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(lengths, _SMALLEST)).mean())


def _turned(before: Array, after: Array) -> float:
    return max(0.0, 1.0 - _cosine(before, after))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "top-1 agreement", _agreement(-1), _divergence(-1)),
        Metric("argmax", "agreement of the argmax at each position", _agreement(-1), _divergence(-1)),
        Metric("argmax-1", "agreement of the argmax along axis 1", _agreement(1), _divergence(1)),
        Metric("binary", "agreement of decisions at 0.5", _alike, _binary_divergence),
        Metric("cosine", "mean cosine", _cosine, _turned),
        Metric("deviation", "1 - relative deviation", _within, _relative),
    )
}


@dataclass(frozen=True)
class Judge:
    """Compares outputs with the original's.

    Attributes:
        metric: how. output: the position of the output that is judged. labels: of the samples, for an accuracy.
    """

    metric: Metric
    output: int

    def error(self, before: Sequence[Array], after: Sequence[Array]) -> float:
        """Return the error, infinite where outputs are not finite."""
        one, other = before[self.output], after[self.output]
        return self.metric.error(one, other) if np.isfinite(other).all() else float("inf")

    def value(self, before: Sequence[Array], after: Sequence[Array], labels: Array | None) -> float:
        """Return the metric: with labels the share of them that the outputs give."""
        one, other = before[self.output], after[self.output]
        if not np.isfinite(other).all():
            return 0.0
        if labels is None:
            return self.metric.of(one, other)
        axis = 1 if self.metric.name == "argmax-1" else -1
        found = _scores(other, axis).argmax(axis=1)
        return float((found == np.asarray(labels).ravel()).mean())


def judge(
    outputs: Sequence[Array], metric: str = AUTO, labels: Array | None = None, position: int | None = None
) -> Judge:
    """Choose how outputs are judged.

    Args:
        outputs: the original's. metric: a name of `METRICS`, or "auto". labels: if there are any.
        position: of the output that is judged; by default the first of floating-point numbers.

    Raises:
        UsageError: for a name that there is not, outputs that cannot be judged, or labels that do not fit.
    """
    floating = [place for place, array in enumerate(outputs) if array.dtype.kind == "f" or _small(array)]
    if position is None:
        position = next(iter(floating), None)
    if position not in floating:
        raise UsageError("no output that is judged holds floating-point numbers, so that nothing can be compared")
    if not np.isfinite(outputs[position].astype(np.float64)).all():
        raise UsageError("the model's own outputs on the samples hold NaN or infinity; check the samples")
    name = _seen(outputs[position], labels is not None) if metric == AUTO else metric
    if name not in METRICS:
        raise UsageError(f"--metric {metric}: give auto or one of {', '.join(METRICS)}")
    chosen = Judge(METRICS[name], position)
    if labels is not None:
        _check_labels(outputs[position], chosen.metric, labels)
    return chosen


def _small(array: Array) -> bool:
    return array.dtype.name in ("bfloat16", "float16")


def _seen(output: Array, labelled: bool) -> str:
    """Look at an output: classes, vectors of length one, or numbers."""
    rank, last = output.ndim, output.shape[-1] if output.ndim else 1
    rows = _scores(output) if rank else np.zeros((1, 1))
    if labelled:
        return "top1"
    if last > 1 and np.ptp(np.linalg.norm(rows, axis=1)) < _ONE * max(1.0, float(np.abs(rows).max())):
        return "cosine"
    if rank == 2 and 1 < last <= _MOST_CLASSES:
        return "top1"
    if rank == 3 and last > 1 and (_sums_to_one(rows) or _sums_to_one(np.exp(rows))):
        return "argmax"
    if rank >= 3 and output.shape[1] > 1 and _sums_to_one(_scores(output, 1)):
        return "argmax-1"
    if last == 1 and _are_decisions(rows):
        return "binary"
    return "deviation"


def _are_decisions(rows: Floats) -> bool:
    """Whether numbers are probabilities of a yes: between 0 and 1, on both sides of one half, and mostly sure."""
    sure = (np.abs(rows - _HALF) > 0.4).mean()
    return bool((rows >= 0).all() and (rows <= 1).all() and 0 < (rows > _HALF).mean() < 1 and sure > _HALF)


def _check_labels(output: Array, metric: Metric, labels: Array) -> None:
    if not metric.name.startswith(("top1", "argmax")):
        raise UsageError(f"--labels are compared with decisions, which --metric {metric.name} makes none of")
    decisions = _scores(output, 1 if metric.name == "argmax-1" else -1)
    if np.asarray(labels).size != len(decisions) or np.asarray(labels).dtype.kind not in "iu":
        raise UsageError(f"--labels: one whole number for each of the {len(decisions)} decisions is wanted")


def relative_deviation(before: Sequence[Array], after: Sequence[Array]) -> float:
    """Return how far floating-point outputs are from the original's, relative to how much those vary; the largest."""
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if one.dtype.kind == "f"]
    return max((float(np.sqrt(_relative(one, other))) for one, other in pairs), default=0.0)
