"""Run a model, and compare what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from onnx import ModelProto
from onnx.backend.test.runner import Runner

from .cases import Value

REORDERED = 16
"""Units in the last place, of an output's largest element: sums taken in another order may differ so much near zero."""


class Session(Protocol):
    """A loaded model."""

    def run(self, feeds: dict[str, Value]) -> list[Value]:
        """Return the outputs in the graph's order."""


class OnnxRuntime:
    """A model in onnxruntime on the CPU, on one thread, with the optimizations that users run it with."""

    def __init__(self, model: ModelProto) -> None:
        """Load the model; onnxruntime's own exceptions come through."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, feeds: dict[str, Value]) -> list[Value]:
        """Return the outputs in the graph's order."""
        return list(self._session.run(None, feeds))


class Reference:
    """A model in the reference evaluator of the onnx package, for what onnxruntime has no kernel for."""

    def __init__(self, model: ModelProto) -> None:
        """Load the model; the evaluator's own exceptions come through."""
        from onnx.reference import ReferenceEvaluator

        self._session = ReferenceEvaluator(model)

    def run(self, feeds: dict[str, Value]) -> list[Value]:
        """Return the outputs in the graph's order."""
        with np.errstate(all="ignore"):  # infinities are among what is expected
            return list(self._session.run(None, feeds))


ENGINES: tuple[type[OnnxRuntime], type[Reference]] = (OnnxRuntime, Reference)


def difference(expected: Sequence[Value], found: Sequence[Value], rtol: float, atol: float) -> str:
    """Say in one line how outputs differ; "" where they do not. NaN equals NaN, as does infinity of one sign.

    The tests' own comparison, but for an absolute tolerance that follows the scale of each output.
    """
    if len(expected) != len(found):
        return f"{len(expected)} outputs became {len(found)}"
    try:
        for ours, theirs in zip(expected, found, strict=True):
            Runner.assert_similar_outputs([ours], [theirs], rtol, max(atol, _rounding(ours)))
    except (AssertionError, TypeError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _rounding(expected: Value) -> float:
    """Return what rounding may change in an output: its scale times a few units in the last place of its type."""
    if not isinstance(expected, np.ndarray) or not np.issubdtype(expected.dtype, np.floating):
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)])
    return float(finite.max(initial=0)) * float(np.finfo(expected.dtype).eps) * REORDERED
