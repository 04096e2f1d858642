"""How far a deployed model deviates from its source, and what that does to its accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.verification.difference import difference
from onnxsqueeze.verification.sessions import Values

Array = npt.NDArray[Any]


_HONEST = 4  # two honest roundings of one thing lie so many times apart, at most
_MOST = 0.1  # of an output's scale: however badly a model is conditioned, more is no rounding


class IncomparableError(Exception):
    """The outputs cannot be compared; the message says of which output, and why."""


@dataclass(frozen=True)
class Deviation:
    """How far one written model deviates from the source, which runs in onnxruntime on the same inputs.

    Attributes:
        file: the model, relative to the folder of the deployment.
        runtime: what it ran in, with its version.
        inputs: what both ran on, in words.
        runs: on how many inputs.
        relative: the largest deviation of any output, in units of that output's scale, its largest magnitude.
        outputs: the same for each output by name.
        mismatches: how many integers, booleans and strings among the outputs differ at all.
    """

    file: str
    runtime: str
    inputs: str
    runs: int
    relative: float
    outputs: dict[str, float] = field(default_factory=dict)
    mismatches: int = 0


@dataclass(frozen=True)
class Accuracy:
    """How often the class with the largest score is the label.

    Attributes:
        output: the output that was compared with the labels.
        labels: how many there were.
        before: the fraction that the source gets right.
        after: the fraction that what was written gets right.
    """

    output: str
    labels: int
    before: float
    after: float


def judged(found: Deviation, rounding: Deviation | None, plausible: float) -> tuple[float, str]:
    """Return the largest deviation that is allowed of a model in the source's precision, and what exceeds it, or "".

    The yardstick is what the source does to itself: where its runs in onnxruntime with and without graph optimizations
    lie further apart than rounding can plausibly take them (in int8, where a step more or less is much), honest
    runtimes do, too. What they disagree on counts for integers alike.

    Args:
        found: what was written against the source. rounding: the source against itself; None where that is not known.
        plausible: what rounding can plausibly do.
    """
    own = {} if rounding is None else rounding.outputs
    excess = {name: value - _allowed(own.get(name, 0.0), plausible) for name, value in found.outputs.items()}
    worst = max(excess, key=excess.__getitem__, default="")
    allowed = _allowed(own.get(worst, 0.0), plausible)
    if worst and excess[worst] > 0:
        return allowed, f"it deviates by {found.outputs[worst]:.2g} of an output's scale (allowed {allowed:.2g})"
    if found.mismatches > (0 if rounding is None else _HONEST * rounding.mismatches):
        return allowed, f"{found.mismatches} of the integers that it gives differ"
    return allowed, ""


def _allowed(own: float, plausible: float) -> float:
    return max(plausible, min(_HONEST * own, _MOST))


def deviation(
    file: str, runtime: str, inputs: str, expected: Sequence[Values], actual: Sequence[Mapping[str, Any]]
) -> Deviation:
    """Compare the outputs of a written model with those of its source, run by run.

    Raises:
        IncomparableError: when an output is missing, has another shape, or NaN or Inf at other places.
    """
    outputs: dict[str, float] = {}
    mismatches = 0
    for name in expected[0]:
        absolute, scale = 0.0, 0.0
        for ours, theirs in zip(expected, actual, strict=True):
            if name not in theirs:
                raise IncomparableError(f"it has no output '{name}'")
            found = difference(ours[name], theirs[name])
            if found.problem:
                raise IncomparableError(f"of its output '{name}' {found.problem}")
            absolute, scale = max(absolute, found.absolute), max(scale, found.scale)
            mismatches += found.mismatches
        # An output of zeros alone has no scale; what is not zero there is told as it is.
        outputs[name] = absolute / scale if scale else absolute
    return Deviation(file, runtime, inputs, len(actual), max(outputs.values(), default=0.0), outputs, mismatches)


def accuracy(
    labels: Sequence[Array], expected: Sequence[Values], actual: Sequence[Mapping[str, Any]]
) -> Accuracy | None:
    """Return how often both models agree with labels, in the first output that has scores for them.

    Such an output has one axis more than the labels, the classes; rather the second than a later or the first one. An
    output with the very shape of the labels holds classes already.

    Args:
        labels: the classes by run, as numbers.
        expected: the source's outputs by run.
        actual: the written model's.

    Returns:
        None where no output fits the labels.
    """
    for name in expected[0]:
        before = [_hits(run[name], wanted) for run, wanted in zip(expected, labels, strict=True)]
        after = [_hits(run[name], wanted) for run, wanted in zip(actual, labels, strict=True)]
        total = sum(wanted.size for wanted in labels)
        if None not in before and None not in after and total:
            return Accuracy(name, total, sum(filter(None, before)) / total, sum(filter(None, after)) / total)
    return None


def _hits(output: Any, labels: Array) -> int | None:
    """Count the labels that an output agrees with; None where it has no scores for them."""
    if not isinstance(output, np.ndarray):
        return None
    if output.shape == labels.shape:
        return int(np.count_nonzero(output == labels)) if output.dtype.kind in "iu" else None
    for axis in sorted(range(output.ndim), key=lambda axis: axis or math.inf):
        if output.shape[:axis] + output.shape[axis + 1 :] == labels.shape:
            return int(np.count_nonzero(output.argmax(axis) == labels))
    return None
