"""What must stay as it is, and the reason that a user is given for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from tests.support.planted.checks import assert_equal_outputs, deviation, minimize, run, size, weights

Array = npt.NDArray[Any]


def network(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, Any],
    source: Sequence[int | str] = ("N", 4),
    target: Sequence[int | str] = ("N", 3),
    dtype: type = np.float32,
    domains: Sequence[str] = ("",),
) -> onnx.ModelProto:
    """Return a model from ``x`` to ``y``."""
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    typed = {name: array if array.dtype == np.int64 else array.astype(dtype) for name, array in arrays.items()}
    stored = [numpy_helper.from_array(array, name) for name, array in typed.items()]
    infos = [helper.make_tensor_value_info(name, elem_type, dims) for name, dims in (("x", source), ("y", target))]
    graph = helper.make_graph(list(nodes), "network", infos[:1], infos[1:], stored)
    opsets = [helper.make_opsetid(domain, 1 if domain else 17) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def hidden(dead: Sequence[int] = (1, 5), width: int = 8, outputs: int = 3) -> dict[str, Array]:
    """Return the weights of two dense layers; nobody reads the dead units."""
    random = np.random.default_rng(width)
    second = random.standard_normal((outputs, width))
    second[:, list(dead)] = 0
    return {
        "w1": random.standard_normal((width, 4)), "b1": random.standard_normal(width),
        "w2": second, "b2": random.standard_normal(outputs),
    }  # fmt: skip


def dense(*between: onnx.NodeProto, last: str = "h") -> list[onnx.NodeProto]:
    """Return two Gemms around nodes that lead from ``h`` to ``last``."""
    return [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        *between,
        helper.make_node("Gemm", [last, "w2", "b2"], ["y"], transB=1),
    ]


RELU = helper.make_node("Relu", ["h"], ["r"])


def reasons(result: sq.Result) -> str:
    """Return all reasons of a report, one a line."""
    return "\n".join(result.report.stayed)


def assert_unchanged_weights(model: onnx.ModelProto) -> sq.Result:
    """Assert that no weight leaves, and the function stays."""
    result = minimize(model)
    assert weights(result.model) == weights(model)
    assert_equal_outputs(model, result.model)
    return result


def test_graph_inputs_that_nobody_reads_and_outputs_of_zeros() -> None:
    tensors = hidden()
    tensors["w1"][:, 2] = 0
    tensors["w2"][1] = 0
    model = network(dense(RELU, last="r"), tensors, source=("batch", 4), target=("batch", 3))
    result = minimize(model, narrowing=False).model
    assert weights(result) == [(3,), (3, 6), (6,), (6, 4)]
    assert_equal_outputs(model, result)


def test_outputs_of_hidden_units_pin_them() -> None:
    model = network(dense(RELU, last="r"), hidden())
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 8]))
    assert_unchanged_weights(model)


def test_auto_named_output_dims_keep_their_names() -> None:
    model = network(dense(RELU, last="r"), hidden(), target=("unk__17", 3))
    assert minimize(model).model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "unk__17"


def test_filter_that_sums_to_zero_stays() -> None:
    random = np.random.default_rng(0)
    first = random.standard_normal((4, 1, 3, 3))
    first[2, 0] = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    second = random.standard_normal((3, 4, 3, 3))
    second[:, 1] = second[:, 1] - second[:, 1].mean(axis=(1, 2), keepdims=True)
    nodes = [helper.make_node("Conv", ["x", "w1"], ["h"]), RELU, helper.make_node("Conv", ["r", "w2"], ["y"])]
    model = network(nodes, {"w1": first, "w2": second}, ("N", 1, "H", "W"), ("N", 3, "h", "w"))
    assert_unchanged_weights(model)


def test_negative_zero_is_zero() -> None:
    tensors = hidden()
    tensors["w2"][:, [1, 5]] = -0.0
    tensors["w1"][3] = -0.0
    model = network(dense(RELU, last="r"), tensors)
    result = minimize(model).model
    assert size(result) == 5 * (4 + 1) + 3 * (5 + 1)
    assert_equal_outputs(model, result)


def test_denormal_weight_is_not_zero() -> None:
    tensors = hidden(dead=())
    tensors["w2"][:, 1] = 1e-41
    tensors["w1"][3] = 1e-41
    assert_unchanged_weights(network(dense(RELU, last="r"), tensors))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_pinned_with_a_warning(bad: float) -> None:
    tensors = hidden()
    tensors["w1"][1, 2] = bad
    model = network(dense(RELU, last="r"), tensors)
    result = minimize(model)
    assert weights(result.model) == weights(model)
    assert any("w1" in line and "NaN or Inf" in line for line in result.report.warnings)


def test_bias_that_is_not_finite_is_pinned_with_a_warning() -> None:
    tensors = hidden()
    tensors["b1"][5] = np.nan
    model = network(dense(RELU, last="r"), tensors)
    result = minimize(model)
    assert weights(result.model) == weights(model)
    assert any("NaN or Inf" in line for line in result.report.warnings)


def test_initializer_that_can_be_overridden_is_pinned() -> None:
    model = network(dense(RELU, last="r"), hidden())
    model.graph.input.append(helper.make_tensor_value_info("w2", TensorProto.FLOAT, [3, 8]))
    result = assert_unchanged_weights(model)
    assert "overridden" in reasons(result)


def test_overridable_bias_is_no_constant() -> None:
    tensors = hidden(dead=())
    tensors["w1"][2] = 0
    model = network(dense(RELU, last="r"), tensors)
    model.graph.input.append(helper.make_tensor_value_info("b1", TensorProto.FLOAT, [8]))
    result = assert_unchanged_weights(model)
    other = {"x": np.ones((2, 4), np.float32), "b1": np.arange(8, dtype=np.float32)}
    assert deviation(run(model, other), run(result.model, other)) == 0, "nothing changed, so nothing may deviate"


def _branch(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
    made = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    return helper.make_graph([node], name, [], [made])


def test_tensor_captured_by_a_branch_is_pinned() -> None:
    then = _branch("then", helper.make_node("Relu", ["h"], ["then_out"]))
    other = _branch("other", helper.make_node("Neg", ["h"], ["else_out"]))
    nodes = dense(
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["r"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["r"], ["q"]),
        last="q",
    )
    result = assert_unchanged_weights(network(nodes, hidden() | {"zero": np.array(0.0)}))
    assert "subgraph" in reasons(result)


def test_tensor_captured_by_a_loop_is_pinned() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "h"], ["next"]), helper.make_node("Identity", ["go_on"], ["still"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = dense(helper.make_node("Loop", ["trips", "", "start"], ["l"], body=body), last="l")
    result = assert_unchanged_weights(network(nodes, hidden() | {"trips": np.array(2), "start": np.ones((1, 8))}))
    assert "subgraph" in reasons(result)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_operator_over_channels_pins_them_and_is_named(operator: str) -> None:
    nodes = dense(RELU, helper.make_node(operator, ["r"], ["s"], axis=-1), last="s")
    result = assert_unchanged_weights(network(nodes, hidden()))
    assert operator in reasons(result)


def test_operator_of_a_custom_domain_pins_what_it_touches_and_is_named() -> None:
    nodes = dense(RELU, helper.make_node("Shuffle", ["r"], ["s"], domain="com.example"), last="s")
    model = network(nodes, hidden(), domains=("", "com.example"))
    before = model.SerializeToString()
    result = sq.minimize(model, round_to=1, verify=False)
    assert weights(result.model) == weights(model)
    assert "Shuffle" in reasons(result)
    assert model.SerializeToString() == before


def test_operators_behind_an_unknown_one_are_still_minimized() -> None:
    tensors = hidden() | {"w3": np.random.default_rng(1).standard_normal((8, 8)), "b3": np.ones(8)}
    tensors["w2"][:, 0] = 0
    nodes = dense(
        helper.make_node("Softmax", ["h"], ["s"]),
        helper.make_node("Gemm", ["s", "w3", "b3"], ["t"], transB=1),
        helper.make_node("Relu", ["t"], ["r"]),
        last="r",
    )
    model = network(nodes, tensors)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) == 8 * 5 + 5 * 9 + 3 * 6


def test_fold_that_overflows_half_precision_keeps_the_unit() -> None:
    tensors = hidden(dead=())
    tensors["w1"][2], tensors["b1"][2] = 0, 6e4
    tensors["w2"][:, 2] = [3, 0.01, 0.01]  # 3 * 6e4 is more than a float16 can hold
    tensors["w1"][4], tensors["b1"][4] = 0, 0
    model = network(dense(RELU, last="r"), tensors, dtype=np.float16)
    result = minimize(model)
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in result.model.graph.initializer)
    assert (7, 4) in weights(result.model), "the zero leaves, the large constant stays"
    assert "overflow" in reasons(result)


def test_half_precision_folds_what_fits() -> None:
    tensors = hidden()
    tensors["w1"][2], tensors["b1"][2] = 0, 0.5
    model = network(dense(RELU, last="r"), tensors, dtype=np.float16)
    result = minimize(model).model
    assert size(result) == 5 * 5 + 3 * 6
    assert_equal_outputs(model, result, tolerance=4e-3, double=False)  # float16: 5e-4 for each of a few roundings


def test_vectors_computed_from_scalars_are_not_stored_at_length() -> None:
    """Each of the three would cost 6 elements, all of them more than the dead unit saves."""
    tensors = hidden(dead=(1,)) | {"row": np.array([1, 8])} | {f"s{i}": np.array(i + 0.5) for i in range(3)}
    nodes, last = [RELU], "r"
    for i in range(3):
        nodes.append(helper.make_node("Expand", [f"s{i}", "row"], [f"v{i}"]))
        nodes.append(helper.make_node("Mul", [last, f"v{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"t{i}"]))
        last = f"t{i}"
    model = network(dense(*nodes, last=last), tensors)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) == size(model) - (4 + 1) - 3


def test_kept_on_request() -> None:
    model = network(dense(RELU, last="r"), hidden())
    result = sq.minimize(model, round_to=1, verify=False, keep=["r"])
    assert weights(result.model) == weights(model)
    assert "kept on request" in reasons(result)


def test_nothing_to_do_returns_the_model_as_it_is() -> None:
    model = network(dense(RELU, last="r"), hidden(dead=()))
    result = minimize(model)
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert "no weight is zero" in result.report.why_nothing


@pytest.mark.parametrize(
    "text", ["h = MatMul(x, w)\n r = Relu(h)\n y = Relu(x)", "y = Relu(x)"], ids=["read", "unread"]
)
def test_weights_that_no_output_depends_on_leave_where_nothing_else_does(text: str) -> None:
    head = "g (float[N,4] x) => (float[N,4] y) <float[4,2] w = {1,2,3,4,5,6,7,8}>"
    given = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {head} {{ {text} }}')
    result = sq.minimize(given)
    assert not result.model.graph.initializer
    assert [node.op_type for node in result.model.graph.node] == ["Relu"]
    assert (result.report.weights_before, result.report.weights_after) == (8, 0)
