"""Constants that do not fit where they would be folded: what they come from stays, and the search ends."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason

HUGE = {np.float16: 6e4, np.float32: 3e38}


def model(arrays: dict[str, np.ndarray], nodes: list[onnx.NodeProto], dtype: type) -> ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    width, classes = arrays["w"].shape[0], 3
    x, y = (helper.make_tensor_value_info(name, kind, ["N", size]) for name, size in (("x", width), ("y", classes)))
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(dtype: type, constant: float) -> dict[str, np.ndarray]:
    """Two layers; of the six units between them two are constant."""
    random = np.random.default_rng(0)
    w, v = random.normal(size=(4, 6)).astype(dtype), random.uniform(0.5, 1, size=(6, 3)).astype(dtype)
    b = random.normal(size=6).astype(dtype)
    w[:, [1, 4]] = 0
    b[[1, 4]] = constant
    return {"w": w, "b": b, "v": v}


def hidden() -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["d"]),
    ]


def assert_same(original: ModelProto, result: sq.Result) -> None:
    dtype = np.float16 if original.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16 else np.float32
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(dtype)
    before, after = (
        ort.InferenceSession(each.SerializeToString()).run(None, {"x": x})[0] for each in (original, result.model)
    )
    np.testing.assert_allclose(after, before, rtol=2e-2 if dtype is np.float16 else 1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_following_add_that_cannot_hold_the_sum(dtype: type, steps: int) -> None:
    """Directly behind the layer, and with another sum behind that."""
    arrays = weights(dtype, HUGE[dtype] / 4)
    arrays |= {f"s{step}": np.full(3, HUGE[dtype] * 0.9, dtype) for step in range(steps)}
    if steps == 2:
        arrays["s1"] = np.ones(3, dtype)
    names = ["d", *(f"e{step}" for step in range(steps - 1)), "y"]
    adds = [helper.make_node("Add", [names[i], f"s{i}"], [names[i + 1]]) for i in range(steps)]
    made = model(arrays, [*hidden(), *adds], dtype)
    result = sq.minimize(made, round_to=1, verify=False)
    assert_same(made, result)
    reasons = result.report.layers[0].stayed | result.report.layers[1].stayed | dict(result.report.stayed)
    assert any(reason.startswith(Reason.OVERFLOW.value) for reason in reasons)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_infinities_of_the_original_are_no_overflow(dtype: type) -> None:
    """A logit that is never to be chosen has a bias of -inf; constants go all the same."""
    arrays = weights(dtype, 0.5) | {"mask": np.array([0.5, -np.inf, 0.25], dtype)}
    made = model(arrays, [*hidden(), helper.make_node("Add", ["d", "mask"], ["y"])], dtype)
    result = sq.minimize(made, round_to=1, verify=False)
    assert_same(made, result)
    assert result.report.layers[1].shape_after == (4, 3)


def test_a_following_batch_normalization(dtype: type = np.float32) -> None:
    arrays = weights(dtype, 1e38)
    random = np.random.default_rng(2)
    arrays |= {name: random.uniform(1, 2, 3).astype(dtype) for name in ("scale", "bias", "variance")}
    arrays["mean"] = np.full(3, -3e38, dtype)
    norm = helper.make_node("BatchNormalization", ["d", "scale", "bias", "mean", "variance"], ["y"])
    made = model(arrays, [*hidden(), norm], dtype)
    assert_same(made, sq.minimize(made, round_to=1, verify=False))


def test_a_constant_branch_that_no_reader_can_hold() -> None:
    """A residual branch of constants alone is added where it is when the constant behind cannot take it up."""
    arrays = weights(np.float32, 0.5)
    arrays |= {
        "zero": np.zeros((4, 3), np.float32),
        "c": np.full(3, 2e38, np.float32),
        "s": np.full(3, 2e38, np.float32),
    }
    nodes = [
        *hidden(),
        helper.make_node("MatMul", ["x", "zero"], ["z"]),
        helper.make_node("Add", ["z", "c"], ["branch"]),
        helper.make_node("Add", ["d", "branch"], ["e"]),
        helper.make_node("Neg", ["e"], ["f"]),
        helper.make_node("Neg", ["f"], ["g"]),
        helper.make_node("Add", ["g", "s"], ["y"]),
    ]
    made = model(arrays, nodes, np.float32)
    result = sq.minimize(made, round_to=1, verify=False)
    assert_same(made, result)
    assert result.report.layers[1].shape_after == (4, 3)
