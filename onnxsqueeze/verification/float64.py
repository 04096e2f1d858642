"""Evaluate models in float64, where that is possible and cheap: a wrong fold has nowhere to hide behind rounding."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx.numpy_helper
from onnx import AttributeProto, ModelProto, TensorProto

from onnxsqueeze.errors import one_line
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import all_nodes, default_opset, subgraphs
from onnxsqueeze.verification.cases import Case
from onnxsqueeze.verification.difference import Array, is_floating
from onnxsqueeze.verification.model_source import FLOAT_TYPES, SMALL, Source
from onnxsqueeze.verification.reference_cost import reference_seconds
from onnxsqueeze.verification.sessions import RefusedError, Session, Values
from onnxsqueeze.verification.widen_types import widened

if TYPE_CHECKING:
    from onnx.reference.op_run import OpRun

Evaluate = Callable[[Values], Values]
Open = Callable[[Model], Evaluate]
"""Takes a model in float64 and returns what evaluates it."""

_TRUSTED_BATCH_NORM = 14  # before this opset, onnx.reference normalizes with the batch's own mean and variance
_SINGLE_ONLY = {"Conv", "ConvTranspose", "Resize", "AveragePool", "GlobalAveragePool"}  # no float64 kernels there


@dataclass(frozen=True)
class Budget:
    """How much an evaluation in float64 may cost.

    Attributes:
        reference_weights: the most weights for onnx.reference.
        onnxruntime_weights: the most weights for onnxruntime.
        longest: seconds, as estimated, for one evaluation by onnx.reference.
        total: seconds for all evaluations of the original; one is made in any case.
    """

    reference_weights: int
    onnxruntime_weights: int
    longest: float
    total: float


USUAL = Budget(reference_weights=SMALL, onnxruntime_weights=8_000_000, longest=0.5, total=0.5)
"""What a verification may spend without cause."""

SECOND_LOOK = Budget(reference_weights=30_000_000, onnxruntime_weights=30_000_000, longest=10.0, total=0.0)
"""What it may spend to find out whether a small deviation is rounding."""


@dataclass
class Float64:
    """What the original computes in float64.

    Attributes:
        open: evaluates another model in the same way; None where nothing does, and then `reason` says why.
        results: the original's outputs, by the index of the case.
        reason: why there are none.
    """

    open: Open | None = None
    results: dict[int, Values] = field(default_factory=dict)
    reason: str = ""


def evaluate_original(original: Source, cases: Mapping[int, Case], budget: Budget) -> Float64:
    """Evaluate the original in float64 on as many of the cases as the time allows.

    By onnx.reference if the model is small, else by onnxruntime, if that has the kernels.
    """
    order = _in_order(cases)
    if not order:
        return Float64(reason="there are no inputs without other values for initializers")
    first = cases[order[0]]
    reasons = []
    for open_, unfit in ((by_reference, _unfit_for_reference), (by_onnxruntime, _unfit_for_onnxruntime)):
        reason = unfit(original, first, budget)
        if not reason:
            try:
                return Float64(open_, dict(_results(open_(in_float64(original.model())), cases, budget)))
            except RefusedError as error:
                reason = str(error)
        reasons.append(f"{open_.__name__.removeprefix('by_')}: {reason}")
    return Float64(reason="; ".join(reasons))


def in_float64(model: Model) -> Model:
    """Return a model that computes in float64 whatever it computes in floating-point numbers."""
    return widened(model, FLOAT_TYPES, TensorProto.DOUBLE)


def by_reference(model: Model) -> Evaluate:
    """Return what evaluates a model by onnx.reference.

    Raises:
        RefusedError: when it does not know an operator; from the evaluation, when that fails.
    """
    from onnx.reference import ReferenceEvaluator

    repaired = [_batch_normalization()] if default_opset(model.skeleton) < _TRUSTED_BATCH_NORM else None
    try:
        evaluator = ReferenceEvaluator(to_proto(model), new_ops=repaired)
    except Exception as error:  # it raises whatever its operators raise
        raise RefusedError(one_line(error)) from None

    def evaluate(feeds: Values) -> Values:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return dict(zip(evaluator.output_names, evaluator.run(None, _doubled(feeds)), strict=True))
        except Exception as error:  # it raises whatever its operators raise
            raise RefusedError(one_line(error)) from None

    return evaluate


def by_onnxruntime(model: Model) -> Evaluate:
    """Return what evaluates a model by onnxruntime.

    Raises:
        RefusedError: when it has no kernel for float64; from the evaluation, when that fails.
    """
    session = Session(Source(model), optimized=False)
    return lambda feeds: session.run(_doubled(feeds))


def stores_new_values(original: Model, minimized: Model) -> bool:
    """Whether the minimized model stores floating-point numbers that the original does not: folds, rounded once.

    A number that is stored more often counts, too: an equal one may stand elsewhere, as the scales of attention do.
    """
    before, counts = np.unique(_stored(original), return_counts=True)
    after, more = np.unique(_stored(minimized), return_counts=True)
    if not np.isin(after, before).all():
        return True
    return bool(np.any(counts[np.searchsorted(before, after)] < more))


def _batch_normalization() -> type[OpRun]:
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):
        op_domain = ""

        def _run(self, x: Array, *parameters: Array, epsilon: float = 1e-5, **_: Any) -> tuple[Array]:
            by_channel = (-1, *[1] * (x.ndim - 2))
            scale, bias, mean, var = (parameter.reshape(by_channel) for parameter in parameters)
            return (scale * (x - mean) / np.sqrt(var + epsilon) + bias,)

    return BatchNormalization


def _unfit_for_reference(original: Source, case: Case, budget: Budget) -> str:
    if original.weights > budget.reference_weights:
        return f"{original.weights} weights are too many"
    shapes = {name: np.shape(value) for name, value in case.feeds.items() if isinstance(value, np.ndarray)}
    seconds = reference_seconds(to_proto(original.model()), shapes)
    if not math.isfinite(seconds):
        return "it might take long"
    return f"it would take about {seconds:.1f} s" if seconds > budget.longest else ""


def _unfit_for_onnxruntime(original: Source, case: Case, budget: Budget) -> str:
    if original.weights > budget.onnxruntime_weights:
        return f"{original.weights} weights are too many"
    found = sorted(_SINGLE_ONLY & {node.op_type for node in all_nodes(original.skeleton)})
    return f"it has no float64 kernel for {', '.join(found)}" if found else ""


def _in_order(cases: Mapping[int, Case]) -> list[int]:
    """Return the cases' indices, first samples first: each of the sizes has its turn, and larger ones round more."""
    return sorted((index for index in cases if not cases[index].overriding), key=lambda index: cases[index].number)


def _results(evaluate: Evaluate, cases: Mapping[int, Case], budget: Budget) -> Iterator[tuple[int, Values]]:
    """Evaluate the first case, and others while the time lasts."""
    rate, spent = 0.0, 0.0  # seconds for each element of the inputs, seconds so far
    for index in _in_order(cases):
        elements = _elements(cases[index].feeds)
        if spent and spent + rate * elements > budget.total:
            continue
        started = time.perf_counter()
        yield index, evaluate(cases[index].feeds)
        seconds = time.perf_counter() - started
        rate, spent = max(rate, seconds / elements), spent + seconds


def _elements(feeds: Values) -> int:
    return max(sum(np.size(value) for value in feeds.values()), 1)


def _doubled(feeds: Values) -> Values:
    return {name: _double(value) for name, value in feeds.items()}


def _double(value: Any) -> Any:
    if isinstance(value, list):
        return [_double(entry) for entry in value]
    return value.astype(np.float64) if isinstance(value, np.ndarray) and is_floating(value) else value


def _stored(model: Model) -> Array:
    """Return all floating-point numbers that a model stores, in initializers and attributes, in subgraphs too."""
    floats = [value for value in model.initializers.values() if value.header.data_type in FLOAT_TYPES]
    arrays = [value.array.astype(np.float64) for value in floats]
    arrays += _attribute_values(model.skeleton)
    return np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.zeros(0)


def _attribute_values(model: ModelProto) -> Iterator[Array]:
    for node in all_nodes(model):
        inner = (tensor for graph in subgraphs(node) for tensor in graph.initializer)
        yield from (_widened(tensor) for tensor in inner if tensor.data_type in FLOAT_TYPES)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in FLOAT_TYPES:
                yield _widened(attribute.t)
            elif attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
                yield np.array([attribute.f, *attribute.floats], np.float64)


def _widened(tensor: TensorProto) -> Array:
    return onnx.numpy_helper.to_array(tensor).astype(np.float64)
