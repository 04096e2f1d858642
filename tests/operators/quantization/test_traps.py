"""Where slicing or folding codes goes wrong easily: each of these fails if its guard is taken away."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import outputs, shapes

Array = npt.NDArray[Any]


class Net:
    """A few nodes over ``x`` [N, size]."""

    def __init__(self, *dims: int | str, opset: int = 21) -> None:
        self.opset, self.dims = opset, dims or ("N", 6)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, Array] = {}
        self.random = np.random.default_rng(3)

    def store(self, array: Any, dtype: Any = None) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = np.asarray(array, dtype)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op}{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def coded(self, x: str, scale: float = 0.02, zero: int = 128) -> str:
        given = self.store(scale, np.float32), self.store(zero, np.uint8)
        return str(self.add("DequantizeLinear", self.add("QuantizeLinear", x, *given), *given))

    def weight(self, codes: Any, scale: Any = 0.01, dtype: Any = np.int8, **attributes: int) -> str:
        return str(self.add("DequantizeLinear", self.store(codes, dtype), self.store(scale, np.float32), **attributes))

    def codes(self, *shape: int) -> Array:
        found = self.random.integers(-90, 90, shape)
        found[found == 0] = 1
        return found

    def model(self, y: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.dims)
        result = helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 4])
        tensors = [numpy_helper.from_array(array, name) for name, array in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "traps", [x], [result], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def minimized(self, y: str, exact: bool = True) -> sq.Result:
        """Minimize, verify and compare bit for bit in onnxruntime."""
        model = self.model(y)
        with files_of_any_length():
            result = sq.minimize(model, round_to=1)
        onnx.checker.check_model(result.model, full_check=True)
        x = self.random.standard_normal([3 if isinstance(size, str) else size for size in self.dims]).astype("f")
        for optimized in (True, False):
            before, after = (outputs(each, {"x": x}, optimized)[0] for each in (model, result.model))
            if exact and optimized:
                np.testing.assert_array_equal(before, after)
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
        return result


def reasons(result: sq.Result) -> set[Reason]:
    """Return why anything stayed."""
    return {why.reason for array in result.plan.reasons.values() for why in array.ravel() if why is not None}


# -- scales that are measured at run time -----------------------------------------------------------------------------


def dynamic(net: Net, inner: Array, bias: Array, outer: Array) -> str:
    """Two layers, the second of which computes with codes of a scale that it measures."""
    hidden = net.add("Relu", net.add("Gemm", "x", net.store(inner, "f"), net.store(bias, "f")))
    codes, scale, zero = net.add("DynamicQuantizeLinear", hidden, outputs=3)
    sums = net.add("MatMulInteger", codes, net.store(outer, np.int8), zero)
    factor = net.add("Mul", scale, net.store(0.01, np.float32))
    return str(net.add("Mul", net.add("Cast", sums, to=TensorProto.FLOAT), factor))


def test_a_channel_that_nobody_reads_may_set_a_measured_scale() -> None:
    net = Net()
    inner, outer = net.random.standard_normal((6, 8)), net.codes(8, 4)
    inner[:, 5] *= 100  # the largest, and dead
    outer[5] = 0
    result = net.minimized(dynamic(net, inner, np.zeros(8), outer))
    assert sorted(shapes(result.model)) == [(6, 8), (8, 4)]
    assert Reason.MEASURED in reasons(result)


def test_zeros_leave_a_measured_tensor() -> None:
    net = Net()
    inner, outer, bias = net.random.standard_normal((6, 8)), net.codes(8, 4), np.zeros(8)
    inner[:, [2, 3, 7]], bias[7] = 0, -1
    result = net.minimized(dynamic(net, inner, bias, outer))
    assert sorted(shapes(result.model)) == [(5, 4), (6, 5)]


def test_of_constants_that_nobody_reads_the_largest_stays() -> None:
    net = Net()
    inner, outer, bias = net.random.standard_normal((6, 8)), net.codes(8, 4), np.zeros(8)
    inner[:, [1, 4, 6]] = 0
    bias[[1, 4, 6]] = 5, 900, 7
    outer[[1, 4, 6]] = 0
    result = net.minimized(dynamic(net, inner, bias, outer))
    assert sorted(shapes(result.model)) == [(6, 4), (6, 6)]


# -- activations ------------------------------------------------------------------------------------------------------


def test_a_zero_point_at_the_end_is_a_relu() -> None:
    """Codes of uint8 whose zero point is 0 hold nothing negative: a unit with a negative bias alone is 0."""
    net = Net()
    inner, bias = net.random.standard_normal((6, 8)), np.zeros(8)
    inner[:, [0, 5]], bias[[0, 5]] = 0, -3
    hidden = net.add("Gemm", "x", net.store(inner, "f"), net.store(bias, "f"))
    y = net.add("MatMul", net.coded(hidden, zero=0), net.weight(net.codes(8, 4)))
    assert sorted(shapes(net.minimized(y).model)) == [(6, 4), (6, 6)]


@pytest.mark.parametrize("steps", [2.5, 2.5005])
def test_a_constant_between_two_codes_is_none(steps: float) -> None:
    """It may be rounded either way, so that its reader has no constant to fold."""
    net = Net()
    inner, bias = net.random.standard_normal((6, 8)), np.zeros(8)
    inner[:, [0, 5]], bias[0], bias[5] = 0, 0.25 * steps, 0.25 * 2
    hidden = net.add("Gemm", "x", net.store(inner, "f"), net.store(bias, "f"))
    y = net.add("Gemm", net.coded(hidden, 0.25), net.weight(net.codes(8, 4)))
    assert sorted(shapes(net.minimized(y, exact=False).model)) == [(6, 7), (7, 4)]


def test_scales_of_channels_of_activations_are_sliced() -> None:
    net = Net(opset=13)
    hidden = net.add("Gemm", "x", net.store(net.random.standard_normal((6, 5)), "f"))
    scale, zero = net.store([0.1, 0.2, 0.3, 0.4, 0.5], "f"), net.store([1, 2, 3, 4, 5], np.uint8)
    codes = net.add("DequantizeLinear", net.add("QuantizeLinear", hidden, scale, zero, axis=1), scale, zero, axis=1)
    outer = net.random.standard_normal((5, 4))
    outer[[1, 3]] = 0
    result = net.minimized(net.add("MatMul", codes, net.store(outer, "f")))
    kept = [
        numpy_helper.to_array(t).tolist() for t in result.model.graph.initializer if t.data_type == TensorProto.UINT8
    ]
    assert kept == [[1, 3, 5]]


def test_a_scale_that_does_not_fit_is_refused() -> None:
    net = Net()
    hidden = net.add("Gemm", "x", net.store(net.random.standard_normal((6, 5)), "f"))
    given = net.store(0.0, np.float32), net.store(0, np.uint8)
    codes = net.add("DequantizeLinear", net.add("QuantizeLinear", hidden, *given), *given)
    outer = net.random.standard_normal((5, 4))
    outer[1] = 0
    result = sq.minimize(net.model(net.add("MatMul", codes, net.store(outer, "f"))), round_to=1, verify=False)
    assert sorted(shapes(result.model)) == [(5, 4), (6, 5)]
    assert Reason.NOT_FINITE in reasons(result)


# -- biases -----------------------------------------------------------------------------------------------------------


def with_constant(net: Net, scale: float | None = None, bias: Any = 0) -> str:
    """Two layers of codes with a constant unit between them; ``scale`` of the second bias, if not the right one."""
    inner, given = net.codes(8, 6), net.random.integers(-50, 50, 8)
    inner[2], given[2] = 0, 4000
    data = net.coded("x")
    first = net.weight(given, np.float32(0.02) * np.float32(0.01), np.int32)
    hidden = net.coded(net.add("Relu", net.add("Gemm", data, net.weight(inner), first, transB=1)), 0.01, 0)
    step = np.float32(0.01) * np.float32(0.01) if scale is None else np.float32(scale)
    second = net.weight(np.full(4, bias), step, np.int32)
    return net.coded(net.add("Gemm", hidden, net.weight(net.codes(4, 8)), second, transB=1), 0.5)


def test_a_constant_becomes_whole_numbers_of_a_bias() -> None:
    net = Net()
    assert sorted(shapes(net.minimized(with_constant(net)).model)) == [(4, 7), (7, 6)]


def test_a_bias_that_would_overflow_keeps_its_constant() -> None:
    net = Net()
    result = net.minimized(with_constant(net, bias=2**31 - 1))
    assert sorted(shapes(result.model)) == [(4, 8), (8, 6)]
    assert Reason.NOT_A_CODE in reasons(result)


def test_a_bias_of_another_scale_keeps_its_constant() -> None:
    net = Net()
    result = net.minimized(with_constant(net, scale=0.00037, bias=3))
    assert sorted(shapes(result.model)) == [(4, 8), (8, 6)]
    assert Reason.NOT_A_CODE in reasons(result)


def test_columns_of_zeros_are_read_by_a_gather_of_codes() -> None:
    """The layer still reads decoded codes, so that it is computed in integers."""
    net = Net("N", 40)
    weight = net.codes(4, 40)
    weight[:, 5:35] = 0
    y = net.coded(net.add("Gemm", net.coded("x"), net.weight(weight), transB=1), 0.5)
    result = net.minimized(y)
    assert shapes(result.model) == [(4, 10)]
    made = {name: node.op_type for node in result.model.graph.node for name in node.output}
    (gemm,) = [node for node in result.model.graph.node if node.op_type == "Gemm"]
    assert [made[name] for name in gemm.input] == ["DequantizeLinear"] * 2


# -- weights ----------------------------------------------------------------------------------------------------------


def test_scales_along_the_inputs() -> None:
    """The axis of scales need not be that of the outputs."""
    net = Net(opset=13)
    inner, outer = net.codes(8, 6), net.codes(4, 8)
    inner[[1, 6]] = 0
    outer[:, 3] = 0
    scales = net.random.uniform(0.01, 0.02, 8)
    hidden = net.add("Relu", net.add("Gemm", "x", net.weight(inner), transB=1))
    y = net.add("Gemm", hidden, net.weight(outer, scales, axis=1), transB=1)
    result = net.minimized(y)
    assert sorted(shapes(result.model)) == [(4, 5), (5, 6)]


def test_scales_that_two_layers_share() -> None:
    net = Net(opset=13)
    scales, inner, outer = net.store(net.random.uniform(0.01, 0.02, 8), "f"), net.codes(8, 6), net.codes(8, 8)
    inner[[1, 6]] = 0
    outer[[2, 3, 4]] = 0
    first = net.add("DequantizeLinear", net.store(inner, np.int8), scales, axis=0)
    second = net.add("DequantizeLinear", net.store(outer, np.int8), scales, axis=0)
    hidden = net.add("Relu", net.add("Gemm", "x", first, transB=1))
    hidden = net.add("Relu", net.add("Gemm", hidden, second, transB=1))
    y = net.add("Gemm", hidden, net.weight(net.codes(4, 8)), transB=1)
    assert sorted(shapes(net.minimized(y).model)) == [(4, 5), (5, 6), (6, 6)]


def test_a_scale_of_zero_makes_zeros() -> None:
    net = Net(opset=13)
    scales = np.full(8, 0.01)
    scales[[2, 5]] = 0
    hidden = net.add("Relu", net.add("Gemm", "x", net.weight(net.codes(8, 6), scales, axis=0), transB=1))
    y = net.add("Gemm", hidden, net.weight(net.codes(4, 8)), transB=1)
    assert sorted(shapes(net.minimized(y).model)) == [(4, 6), (6, 6)]


def test_weights_that_are_encoded_in_the_file_become_codes() -> None:
    """As quantization-aware training leaves them: real numbers, encoded and decoded in front of their layer."""
    net = Net()
    inner = net.random.standard_normal((8, 6))
    inner[[1, 6]] = 0
    given = net.store(0.01, np.float32), net.store(0, np.int8)
    weight = net.add("DequantizeLinear", net.add("QuantizeLinear", net.store(inner, "f"), *given), *given)
    hidden = net.add("Relu", net.add("Gemm", net.coded("x"), weight, transB=1))
    y = net.add("Gemm", hidden, net.weight(net.codes(4, 8)), transB=1)
    result = net.minimized(y)
    found = [t for t in result.model.graph.initializer if len(t.dims) > 1]
    assert {(tuple(t.dims), t.data_type) for t in found} == {
        ((6, 6), TensorProto.INT8),
        ((4, 6), TensorProto.INT8),
    }


@pytest.mark.parametrize("dtype", [np.int8, np.int16, ml_dtypes.int4, ml_dtypes.uint4], ids=str)
def test_narrow_codes(dtype: Any) -> None:
    net = Net()
    zero = 0 if np.dtype(dtype).name != "uint4" else 8
    inner, outer = (net.random.integers(1, 7, shape) for shape in ((8, 6), (4, 8)))
    inner[[1, 6]], outer[:, 3] = 0, 0

    def weight(codes: Array) -> str:
        given = net.store(0.01, np.float32), net.store(zero, dtype)
        return str(net.add("DequantizeLinear", net.store(codes + zero, dtype), *given))

    hidden = net.add("Relu", net.add("Gemm", "x", weight(inner), transB=1))
    result = net.minimized(net.add("Gemm", hidden, weight(outer), transB=1))
    assert sorted(shapes(result.model)) == [(4, 5), (5, 6)]
    kinds = {t.data_type for t in result.model.graph.initializer if len(t.dims) > 1}
    assert kinds == {helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4], ids=str)
def test_blocks_leave_whole(dtype: Any) -> None:
    """Scales of blocks of 4 along the inputs: of the channels that nobody reads two make up a block with two others."""
    net = Net()
    inner, outer = net.random.integers(1, 7, (12, 6)), net.random.integers(1, 7, (4, 12))
    outer[:, [4, 5, 6, 7, 9, 10]] = 0
    scales = net.random.uniform(0.01, 0.02, (4, 3))
    hidden = net.add("Relu", net.add("Gemm", "x", net.weight(inner, dtype=dtype), transB=1))
    y = net.add("Gemm", hidden, net.weight(outer, scales, dtype, axis=1, block_size=4), transB=1)
    result = net.minimized(y)
    assert sorted(shapes(result.model)) == [(4, 2), (4, 8), (8, 6)]
