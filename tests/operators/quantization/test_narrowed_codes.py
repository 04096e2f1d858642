"""Layers of codes that read a part of their data: the codes are gathered, and the operator on codes stays what it is.

Left as decoding, a product and a cast, runtimes would encode the gathered numbers once more, with other scales.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxsqueeze as sq
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import Codes, Form, in_operators, outputs

PRODUCT = """<ir_version: 8, opset_import: ["": 17]> product (float[n,64] x) => (float[n,64] y, float[n,24] z) {
    h = Sigmoid(x)
    codes, scale, zero = DynamicQuantizeLinear(h)
    sums = MatMulInteger(codes, w, zero, w_zero)
    real = Cast <to = 1> (sums)
    both = Mul(scale, w_scale)
    z = Mul(real, both)
    y = Identity(h)
}"""
CONVOLUTION = """<ir_version: 8, opset_import: ["": 17]>
convolution (float[n,64,5,5] x) => (float[n,64,5,5] y, float[n,24,a,b] z) {
    h = Sigmoid(x)
    codes, scale, zero = DynamicQuantizeLinear(h)
    sums = ConvInteger <pads = [1, 1, 1, 1]> (codes, w, zero, w_zero)
    real = Cast <to = 1> (sums)
    both = Mul(scale, w_scale)
    z = Mul(real, both)
    y = Identity(h)
}"""
WIDTH, ROWS, READ = 64, 24, 20


def network(text: str, kernel: tuple[int, ...], several: bool) -> onnx.ModelProto:
    """Return a network whose layer reads some of 64 channels that are all handed out; each row may have its scale."""
    model, random = parser.parse_model(text), np.random.default_rng(3)
    zero = np.uint8(127)
    weight = random.integers(0, 256, (ROWS, WIDTH, *kernel)).astype(np.uint8)
    weight[:, random.permutation(WIDTH)[READ:]] = zero
    rows = (ROWS,) if several else ()
    arrays = {
        "w": weight if kernel else weight.T,
        "w_zero": np.full(rows, zero),
        "w_scale": random.uniform(0.01, 0.02, rows).astype(np.float32),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in arrays.items()
    )
    return model


@pytest.mark.parametrize(("kernel", "several"), [((), False), ((), True), ((3, 3), False)])
def test_codes_are_gathered(kernel: tuple[int, ...], several: bool) -> None:
    model = network(CONVOLUTION if kernel else PRODUCT, kernel, several)
    result = sq.minimize(model, round_to=1, verify=False).model
    added = Counter(node.op_type for node in result.graph.node)
    added.subtract(node.op_type for node in model.graph.node)
    assert +added == Counter({"Gather": 1})
    assert not -added
    shapes = {tensor.name: tuple(tensor.dims) for tensor in result.graph.initializer}
    assert shapes["w"] == ((ROWS, READ, *kernel) if kernel else (READ, ROWS))
    x = np.random.default_rng(0).standard_normal((9, WIDTH, 5, 5) if kernel else (9, WIDTH)).astype(np.float32)
    for optimized in (False, True):
        for before, after in zip(*(outputs(each, {"x": x}, optimized) for each in (model, result)), strict=True):
            np.testing.assert_array_equal(before, after)


TO_FLOAT = (
    "codes, scale, zero = DynamicQuantizeLinear(h)",
    "MatMulIntegerToFloat(codes, w, scale, w_scale, zero, w_zero",
)
MEASURING = ("", "DynamicQuantizeMatMul(h, w, w_scale, w_zero")
FUSED = [(TO_FLOAT, False, True), (TO_FLOAT, True, False), (MEASURING, False, False), (MEASURING, True, True)]


def measured(form: tuple[str, str], bias: bool, several: bool, read: int, live: int) -> onnx.ModelProto:
    """Return a network in which one operator reads some of 64 channels that are all handed out, and makes some rows.

    The bias is none for half of the rows of zeros.
    """
    encoding, product = form
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        fused (float[n,3,{WIDTH}] x) => (float[n,3,{WIDTH}] y, float[n,3,{ROWS}] z) {{
            h = Sigmoid(x)
            {encoding}
            z = com.microsoft.{product}{", b" if bias else ""})
            y = Identity(h)
        }}""")
    random = np.random.default_rng(5)
    zero, rows = np.uint8(127), (ROWS,) if several else ()
    weight = random.integers(128, 256, (WIDTH, ROWS)).astype(np.uint8)
    weight[random.permutation(WIDTH)[read:]] = zero
    empty = random.permutation(ROWS)[live:]
    weight[:, empty] = zero
    added = random.standard_normal(ROWS).astype(np.float32)
    added[empty[::2]] = 0
    arrays = {
        "w": weight,
        "w_zero": np.full(rows, zero),
        "w_scale": random.uniform(0.01, 0.02, rows).astype(np.float32),
        **({"b": added} if bias else {}),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def as_before(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Compare what two models compute, bit for bit, with and without onnxruntime's optimizations."""
    x = np.random.default_rng(0).standard_normal((9, 3, WIDTH)).astype(np.float32)
    for optimized in (False, True):
        pairs = zip(*(outputs(each, {"x": x}, optimized) for each in (before, after)), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("form", "bias", "several"), FUSED)
def test_columns_of_fused_products(form: tuple[str, str], bias: bool, several: bool) -> None:
    """What measures, encodes and multiplies is taken apart there, and no further."""
    model = measured(form, bias, several, READ, ROWS)
    result = sq.minimize(model, round_to=1, verify=False).model
    assert [node.op_type for node in result.graph.node] == [
        *("Sigmoid", "DynamicQuantizeLinear", "Gather", "MatMulIntegerToFloat", "Identity")
    ]
    assert {tensor.name: tuple(tensor.dims) for tensor in result.graph.initializer}["w"] == (READ, ROWS)
    as_before(model, result)
    assert sq.minimize(result, round_to=1, verify=False).model == result


@pytest.mark.parametrize(("form", "bias", "several"), FUSED)
def test_rows_of_fused_products(form: tuple[str, str], bias: bool, several: bool) -> None:
    """They come back as real numbers, in front of a bias."""
    model = measured(form, bias, several, WIDTH, 10)
    result = sq.minimize(model, round_to=1, verify=False).model
    product = ["DynamicQuantizeMatMul"] if form is MEASURING else ["DynamicQuantizeLinear", "MatMulIntegerToFloat"]
    added = ["Gather", *["Add"] * bias]
    assert [node.op_type for node in result.graph.node] == ["Sigmoid", *product, *added, "Identity"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in result.graph.initializer}
    assert shapes["w"] == (WIDTH, 11)
    assert shapes["w_scale"] == shapes["w_zero"] == ((11,) if several else ())
    as_before(model, result)
    assert sq.minimize(result, round_to=1, verify=False).model == result


@pytest.mark.parametrize("form", [TO_FLOAT, MEASURING], ids=["encoded", "measured"])
def test_fused_products_that_nothing_leaves_stay_whole(form: tuple[str, str]) -> None:
    model = measured(form, True, False, WIDTH, ROWS)
    result = sq.minimize(model, round_to=1, verify=False).model
    assert [node.op_type for node in result.graph.node] == [node.op_type for node in model.graph.node]


COMPUTED = """<ir_version: 8, opset_import: ["": 17]> computed (float[n,16] x) => (float[n,4] y) {
    codes = QuantizeLinear(x, s, z)
    w_codes = QuantizeLinear(w, s, z)
    h = QLinearMatMul(codes, s, z, w_codes, s, z, t, z)
    v_codes = QuantizeLinear(v, s, z)
    made = QLinearMatMul(h, t, z, v_codes, s, z, t, z)
    y = DequantizeLinear(made, t, z)
}"""


def test_codes_that_are_computed_of_stored_numbers() -> None:
    """They are constants as good as stored ones: the operators on codes are put together again."""
    model, random = parser.parse_model(COMPUTED), np.random.default_rng(4)
    arrays = {
        **{"s": np.float32(0.02), "t": np.float32(0.1), "z": np.uint8(128)},
        **{"w": random.standard_normal((16, 24)), "v": random.standard_normal((24, 4))},
    }
    arrays["v"][random.permutation(24)[:9]] = 0
    for name, array in arrays.items():
        kept = np.asarray(array, np.uint8 if name == "z" else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(kept, name))
    result = sq.minimize(model, round_to=1, verify=False).model
    count = Counter(node.op_type for node in result.graph.node)
    assert (count["QLinearMatMul"], count["MatMul"], count["DequantizeLinear"]) == (2, 0, 1)
    assert sorted(tuple(tensor.dims) for tensor in result.graph.initializer if tensor.dims) == [(15, 4), (16, 15)]
    x = random.standard_normal((9, 16)).astype(np.float32)
    for optimized in (False, True):
        before, after = (outputs(each, {"x": x}, optimized)[0] for each in (model, result))
        np.testing.assert_array_equal(before, after)


FORMS = [Form(), Form(per_channel=True), Form(np.uint8, np.uint8, shifted=True), Form(np.int8, np.int8)]
WIDE, LIVE_ROWS, OTHERS = 128, 20, 4


def beside_a_stream(form: Form, kernel: tuple[int, ...]) -> onnx.ModelProto:
    """Return a layer with rows of zeros, which reads constants as well, between a stream that stays and itself."""
    net = Codes(form)
    x = net.input("N", WIDE, *(5 for _ in kernel))
    layer, pads = ("Conv", {"pads": [1, 1, 1, 1]}) if kernel else ("Gemm", {})
    hidden = net.layer(layer, x, net.units(live=20, const=1), tuple(1 for _ in kernel))
    rows = net.units(live=LIVE_ROWS, zero=WIDE - LIVE_ROWS)
    y = net.layer(layer, hidden, rows, kernel, relu=False, **pads)
    (bias,) = [array for array in net.initializers.values() if array.shape == (WIDE,) and array.dtype == np.int32]
    bias[np.flatnonzero(rows == "zero")[:OTHERS]] = 700 + np.arange(OTHERS)
    model = net.model(net.coded(net.add("Add", x.name, y.name), rows).name)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
@pytest.mark.parametrize("form", FORMS)
def test_rows_of_zeros_come_back_as_codes(form: Form, kernel: tuple[int, ...]) -> None:
    """Those of one bias share one row behind their encoding; rows of other biases are computed."""
    model = beside_a_stream(form, kernel)
    x = np.random.default_rng(0).standard_normal((9, WIDE, *(5 for _ in kernel))).astype(np.float32)
    for given in (model, in_operators(model))[: 1 + (form.data is np.uint8)]:  # onnxruntime writes int8 as uint8
        small = sq.minimize(given, round_to=1).model
        weights = [tensor.dims for tensor in small.graph.initializer if len(tensor.dims) > 1]
        (rows,) = [dims[0] for dims in weights if dims[1] != WIDE]
        assert rows == LIVE_ROWS + OTHERS + 1
        onnx.checker.check_model(small, full_check=True)
        fused = [Counter(node.op_type for node in in_operators(each).graph.node) for each in (given, small)]
        assert fused[1] == fused[0] + Counter({"Gather": 1})  # what was computed in integers is so still
        np.testing.assert_array_equal(*(outputs(each, {"x": x})[0] for each in (given, small)))


SIGNED = """<ir_version: 8, opset_import: ["": 17]> signed (float[n,64] x) => (float[n,64] y, float[n,24] z) {
    codes = QuantizeLinear(x, s, zero)
    h = DequantizeLinear(codes, s, zero)
    y = Neg(BESIDE)
    LAYER
    z = DequantizeLinear(made, u, zero)
}"""
DECODED = """v = DequantizeLinear(w, t, zero)
    real = MatMul(h, v)
    made = QuantizeLinear(real, u, zero)"""
ON_CODES = "made = QLinearMatMul(codes, s, zero, w, t, zero, u, zero)"


@pytest.mark.parametrize(("layer", "beside"), [(DECODED, "x"), (DECODED, "h"), (ON_CODES, "h")])
def test_codes_of_int8(layer: str, beside: str) -> None:
    """onnxruntime makes them uint8 only where they are decoded right behind their encoding, and read once."""
    text = SIGNED.replace("LAYER", layer).replace("BESIDE", beside)
    model, random = parser.parse_model(text), np.random.default_rng(6)
    weight = random.integers(1, 90, (WIDTH, ROWS))
    weight[random.permutation(WIDTH)[READ:]] = 0
    weight[:, random.permutation(ROWS)[10:]] = 0
    arrays = {"w": weight.astype(np.int8), "zero": np.int8(0)}
    arrays |= {name: np.float32(scale) for name, scale in (("s", 0.02), ("t", 0.01), ("u", 0.1))}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())
    small = sq.minimize(model, round_to=1, verify=False).model
    onnx.checker.check_model(small, full_check=True)
    assert {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}["w"] == (READ, 11)
    before, after = (Counter(node.op_type for node in in_operators(each).graph.node) for each in (model, small))
    assert after == before + Counter({"Gather": 2})
    assert before["QLinearMatMul"] == (layer is ON_CODES or beside == "x")
    x = random.standard_normal((9, WIDTH)).astype(np.float32)
    for optimized in (False, True):
        pairs = zip(*(outputs(each, {"x": x}, optimized) for each in (model, small)), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)
    assert sq.minimize(small, round_to=1, verify=False).model == small


BLOCKED = """<ir_version: 10, opset_import: ["": 21]> blocked (float[n,64] x) => (float[n,24] z) {
    v = DequantizeLinear <axis = AXIS, block_size = 16> (w, t)
    z = MatMul(x, v)
}"""


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_of_scales(axis: int) -> None:
    """Columns leave in whole blocks, rows one by one; where blocks lie along the rows, the layer stays."""
    model, random = parser.parse_model(BLOCKED.replace("AXIS", str(axis))), np.random.default_rng(6)
    weight = random.integers(1, 90, (WIDTH, ROWS)).astype(np.int8)
    weight[[*range(16, 32), 40]] = 0
    weight[:, 10:] = 0
    scales = random.uniform(0.01, 0.02, (WIDTH // 16, ROWS) if axis == 0 else (WIDTH, 2)).astype(np.float32)
    arrays = {"w": weight, "t": scales}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    with files_of_any_length():
        small = sq.minimize(model, round_to=1).model
    shapes = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    assert shapes["w"] == ((48, 11) if axis == 0 else weight.shape)
    assert shapes["t"] == ((3, 11) if axis == 0 else scales.shape)
    x = random.standard_normal((9, WIDTH)).astype(np.float32)
    before, after = (outputs(each, {"x": x}, False)[0] for each in (model, small))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
