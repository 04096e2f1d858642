"""Compare a model with its minimized form on the same inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx import ModelProto

from onnxsqueeze.errors import InvalidModelError, UsageError
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.sources import in_memory
from onnxsqueeze.processes.apart import CrashedError, NotPortableError, apart_wanted, call_apart
from onnxsqueeze.verification.cases import Request
from onnxsqueeze.verification.comparison import Comparison, FailedError, Progress, Record
from onnxsqueeze.verification.model_source import Given, Source
from onnxsqueeze.verification.report import VerifyReport
from onnxsqueeze.verification.samples import Samples


def verify(
    original: Given,
    minimized: Given,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    samples: int = 2,
    inputs: Samples | None = None,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare two models that should compute the same function.

    Their signatures must be identical. Both then run in onnxruntime on the CPU on the same inputs, with graph
    optimizations off and on: on inputs drawn to fit, at two sizes of each dynamic dimension, and on the user's own.
    Where it is possible and takes under about a second they are evaluated in float64 as well, by onnx.reference for a
    small model. A deviation is judged against the output's scale, its largest magnitude in the original; what rounding
    does to the original itself is the yardstick. Integers, booleans and strings must be equal.

    Where that fails and no ``rtol`` is given, both are evaluated in float64 node by node, at most five minutes each,
    given what each run selected where scores tie: if they are the same there, and the runs as near to it as the
    original's own, the models pass, and `VerifyReport.settled_in_float64` says so.

    All of that happens in a process of its own, so that a model that makes onnxruntime crash does not take this one
    with it; see docs/decisions/own-process.md. ``ONNXSQUEEZE_IN_PROCESS=1`` in the environment keeps it here.

    Args:
        original: a model: its path, or in memory, unchanged by this.
        minimized: the model to compare with it.
        rtol: the deviation to allow, relative to an output's scale, instead of the default. That is 4 yardsticks, and
            at least 2e-5 for a float32 model, 1e-9 for float64, 5e-3 for float16 and 4e-2 for bfloat16, or a quarter of
            that where the yardstick comes from float64; at most 50 times as much.
        atol: an absolute deviation to allow in addition.
        samples: how many inputs to draw at each of the sizes, at least 1.
        inputs: the user's own inputs, to be run besides: the path of an npz file, or arrays by input name.
        dims: sizes of dynamic dimensions by name.
        input_shapes: shapes of inputs by name.
        seed: of the random numbers, at least 0; equal seeds draw equal inputs.
        progress: is told how far the work is.

    Returns:
        The report. A model that onnxruntime refuses, or that makes it crash, is not verified, with that for a reason;
        nothing is raised for it.

    Raises:
        UsageError: when an argument does not fit the model, or the original runs at none of the sizes that were tried.
        InvalidModelError: when a model cannot be read.
    """
    for name, number, least in (("number of samples", samples, 1), ("seed", seed, 0)):
        if number < least:
            raise UsageError(f"the {name} must be at least {least}, not {number}")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name} must be a number of at least 0, not {value}")
    started = time.perf_counter()
    request = Request(samples, inputs, dims or {}, input_shapes or {}, seed)
    original, minimized = (given if isinstance(given, Model) else in_memory(given) for given in (original, minimized))
    report = _apart(original, minimized, request, rtol, atol, progress) if apart_wanted() else None
    if report is None:
        report = compare(original, minimized, request, rtol, atol, progress or _silent)
    return replace(report, seconds=time.perf_counter() - started)


def _apart(
    original: Given, minimized: Given, request: Request, rtol: float | None, atol: float | None, tell: Progress | None
) -> VerifyReport | None:
    """Compare two models in a process of its own; None where there can be none."""
    found: VerifyReport
    try:
        found = call_apart(compare, original, minimized, request, rtol, atol, tell=tell or _silent)
    except (NotPortableError, OSError):
        return None
    except CrashedError as error:
        subject = "cannot verify: onnxruntime" if "minimized" not in error.step else "onnxruntime"
        reason = f"{subject} crashed ({error}) while {error.step}"
        return replace(Record().report(FailedError(reason)), crashed=True)
    return found


def compare(
    original: Given, minimized: Given, request: Request, rtol: float | None, atol: float | None, progress: Progress
) -> VerifyReport:
    """Compare two models in this process; see `verify`, whose checks of the arguments have been made."""
    record = Record()
    try:
        progress("reading the models", 0.0)
        comparison = Comparison(*_sources(original, minimized), record, progress)
        comparison.run(request, rtol, atol)
        return record.report()
    except FailedError as error:
        return record.report(error)


def _silent(step: str, fraction: float) -> None:
    pass


def _sources(original: Given, minimized: Given) -> tuple[Source, Source]:
    """Read the models; a minimized one in memory that the checker refuses is a wrong result, not a wrong argument."""
    first = Source(original, check=True)
    try:
        return first, Source(minimized, check=True)
    except InvalidModelError as error:
        if isinstance(minimized, (Model, ModelProto)):
            raise FailedError(f"the minimized model is invalid: {error}") from None
        raise
