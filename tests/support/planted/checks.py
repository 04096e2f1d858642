"""What a minimized network must fulfil: the small one's size, the wide one's outputs, an untouched signature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxsqueeze as sq
from tests.support.builders import TRUSTED_BATCH_NORM, Pair

Array = npt.NDArray[Any]

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

SINGLE = 2e-5
"""Largest deviation in float32, relative to the output's scale: a dozen layers that each sum some hundred terms."""

DOUBLE = 2e-6
"""The same in float64: folded constants are still stored as float32 (6e-8 each) and pass a dozen layers."""


def weights(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of all stored float tensors: initializers, and Constant nodes."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_type in FLOATS]
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            tensor = value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))
            tensors += [tensor] if tensor.data_type in FLOATS else []
    return sorted(tuple(tensor.dims) for tensor in tensors)


def size(model: onnx.ModelProto) -> int:
    """Return the number of stored weight elements."""
    return sum(map(prod, weights(model)))


def operators(model: onnx.ModelProto) -> Counter[str]:
    """Count the nodes by operator, without Constant nodes, which are but another way to store a tensor."""
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def signature(model: onnx.ModelProto) -> list[bytes]:
    """Return the graph's inputs and outputs, to the byte."""
    return [info.SerializeToString(deterministic=True) for info in (*model.graph.input, *model.graph.output)]


def draw(model: onnx.ModelProto, batch: int, extent: int, seed: int = 0) -> dict[str, Array]:
    """Draw inputs; the first dim is the batch if it is dynamic, every other dynamic dim gets ``extent``."""
    random = np.random.default_rng(seed)
    stored = {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, Array] = {}
    for info in model.graph.input:
        if info.name in stored:
            continue
        dims = enumerate(info.type.tensor_type.shape.dim)
        shape = [d.dim_value or (extent if axis else batch) for axis, d in dims]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        feeds[info.name] = (
            random.random(shape) > 0.5 if dtype.kind == "b" else random.standard_normal(shape).astype(dtype)
        )
    return feeds


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], optimized: bool = True) -> list[Array]:
    """Run in onnxruntime, on one thread, with all graph optimizations or none."""
    return loaded(model, optimized)(feeds)


def loaded(model: onnx.ModelProto, optimized: bool = True) -> Callable[[Mapping[str, Array]], list[Array]]:
    """Return what runs a model as `run` does, for several runs: most of the time of one goes into loading."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")  # it rounds data in blocks else
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: list(session.run(None, dict(feeds)))


def in_double(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Run in float64 through onnx's own evaluator."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for tensor in wide.graph.initializer:
        _to_double(tensor)
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                _to_double(attribute.t)
            elif attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    evaluator = ReferenceEvaluator(wide)
    doubled = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feeds.items()}
    with np.errstate(all="ignore"):
        return [np.asarray(output) for output in evaluator.run(None, doubled)]


def _reference_is_right(model: onnx.ModelProto) -> bool:
    return model.opset_import[0].version >= TRUSTED_BATCH_NORM or "BatchNormalization" not in operators(model)


def _to_double(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def deviation(expected: Sequence[Array], actual: Sequence[Array]) -> float:
    """Return the largest difference relative to the largest expected value.

    It is inf where shapes or types differ, or a number is not finite: NaN is larger than nothing.
    """
    worst = 0.0
    for left, right in zip(expected, actual, strict=True):
        alike = left.shape == right.shape and left.dtype == right.dtype
        if not alike or not np.isfinite(left).all() or not np.isfinite(right).all():
            return float("inf")
        scale = max(float(np.abs(left).max(initial=0)), 1e-6)
        worst = max(worst, float(np.abs(left.astype(np.float64) - right).max(initial=0)) / scale)
    return worst


def assert_equal_outputs(
    model: onnx.ModelProto,
    *others: onnx.ModelProto,
    extents: Iterable[int] = (8, 11),
    tolerance: float = SINGLE,
    double: bool = True,
) -> None:
    """Assert that models agree in onnxruntime (optimized or not, two sizes of every dynamic dim) and in float64."""
    fed = [draw(model, batch, extent, seed=extent) for batch, extent in zip((1, 3), extents, strict=True)]
    for optimized in (False, True):
        original, *runs = [loaded(each, optimized) for each in (model, *others)]
        for feeds in fed:
            expected = original(feeds)
            for run_other in runs:
                assert deviation(expected, run_other(feeds)) <= tolerance
    if double and _reference_is_right(model):
        expected = in_double(model, fed[0])
        for other in others:
            assert deviation(expected, in_double(other, fed[0])) <= DOUBLE


def assert_untouched_contract(original: onnx.ModelProto, result: sq.Result, before: bytes) -> None:
    """Assert what holds for every model: an unchanged argument, a valid result, its signature, no more weights."""
    assert original.SerializeToString(deterministic=True) == before, "minimize changed its argument"
    onnx.checker.check_model(result.model, full_check=True)
    assert signature(result.model) == signature(original)
    assert list(result.model.opset_import) == list(original.opset_import)
    assert size(result.model) <= size(original)


def files_of_any_length() -> AbstractContextManager[Any]:
    """Let files become longer: planted networks are so small that a node and its names weigh more than their weights.

    `tests/rewriting/test_stored_forms.py` and others see to it that no file grows.
    """
    return patch("onnxsqueeze.pipeline.minimize.most_bytes", lambda given, model: None)


def minimize(model: onnx.ModelProto, narrowing: bool = True) -> sq.Result:
    """Minimize to the smallest model and assert what holds for every result.

    Without ``narrowing`` the layers keep rows and columns of zeros, so that their weights say what their tensors keep.
    """
    before = model.SerializeToString(deterministic=True)
    unnarrowed = patch("onnxsqueeze.pipeline.search.narrowing", lambda round_to: None)
    with files_of_any_length(), nullcontext() if narrowing else unnarrowed:
        result = sq.minimize(model, round_to=1, verify=False)
    assert_untouched_contract(model, result, before)
    return result


def assert_recovers(
    pair: Pair,
    *,
    allowance: int = 0,
    more: Iterable[str] = (),
    kernels: bool = True,
    extents: Iterable[int] = (8, 11),
    tolerance: float = SINGLE,
    double: bool = True,
    narrowing: bool = True,
) -> onnx.ModelProto:
    """Assert that the wide network comes back at the small one's size, with its function, and return it.

    Vectors may be fewer than in the small network (a BatchNormalization folded into a convolution takes its own along);
    every matrix and kernel must have the very shape.

    Args:
        pair: the two networks.
        allowance: weight elements which the minimized network may have in excess; the test says why.
        more: operators that it may have in excess.
        kernels: whether every matrix and kernel must have the small network's shape.
        extents: the two sizes of every dynamic dim but the batch.
        tolerance: largest deviation in float32, relative to the output's scale.
        double: whether to compare in float64 too.
        narrowing: see `minimize`.
    """
    result = minimize(pair.wide, narrowing)
    model, stayed = result.model, result.report.stayed
    assert_equal_outputs(pair.wide, pair.small, model, extents=extents, tolerance=tolerance, double=double)
    expected, found = kernels_of(pair.small), kernels_of(model)
    extra, missing = sorted((found - expected).elements()), sorted((expected - found).elements())
    assert found == expected or not kernels, f"left {extra}, where {missing} is enough: {dict(stayed)}"
    enough = size(pair.small) + allowance
    assert size(model) <= enough, f"left {size(model)}, where {enough} is enough: {dict(stayed)}"
    excess = operators(model) - operators(pair.small)
    assert not set(excess) - set(more), f"nodes left: {dict(excess)}"
    return model


def kernels_of(model: onnx.ModelProto) -> Counter[tuple[int, ...]]:
    """Count the shapes of the weights that are no vectors."""
    return Counter(shape for shape in weights(model) if prod(shape) != max(shape, default=1))
