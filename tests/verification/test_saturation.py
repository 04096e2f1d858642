"""Weights of int8 are run as uint8 where products would saturate: the same whole numbers."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper, parser

from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.products_of_codes import saturating
from onnxsqueeze.verification import saturation
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import Session
from tests.support.quantized import Array, Codes, Form, in_operators, options


def network(form: Form, large: bool = False) -> ModelProto:
    """Return a convolution and a product, whose sums fit into 16 bits unless they are ``large``."""
    net = Codes(form)
    x = net.input("N", 8, 5, 5)
    x = net.layer("Conv", x, net.units(live=8), (3, 3))
    flat = net.add("Flatten", net.add("GlobalAveragePool", x.name))
    y = net.layer("Gemm", net.coded(flat, x.kinds), net.units(live=5), relu=False)
    for name, array in net.initializers.items():
        if array.ndim > 1:
            net.initializers[name] = np.full_like(array, 126) if large else (array // 2).astype(array.dtype)
    return net.model(y.name)


def raw(model: ModelProto, x: Array, optimized: bool) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), options(optimized))
    return np.asarray(session.run(None, {"x": x})[0])


X = np.random.default_rng(0).standard_normal((7, 8, 5, 5)).astype(np.float32)


@pytest.mark.parametrize("form", [Form(), Form(per_channel=True), Form(shifted=True)])
def test_the_same_whole_numbers(form: Form) -> None:
    """Every weight of int8 is another, in either form."""
    for model in (network(form), in_operators(network(form))):
        changed = to_proto(saturation.unsigned(load(model)))
        read = {name for node in changed.graph.node for name in node.input}
        assert saturation.has_codes(model) and not saturation.encodes_signed(load(model))
        assert not any(each.data_type == TensorProto.INT8 for each in changed.graph.initializer if each.name in read)
        np.testing.assert_array_equal(raw(model, X, True), raw(changed, X, True))


def test_data_of_int8_is_told_apart() -> None:
    assert saturation.encodes_signed(load(network(Form(np.int8, np.int8))))


@pytest.mark.parametrize("form", [Form(), Form(np.int8, np.int8)])
def test_no_run_saturates(form: Form) -> None:
    """Integers and real numbers give the same, wherever this runs."""
    source = Source(network(form, large=True))
    runs = [Session(source, optimized=optimized).run({"x": X}) for optimized in (False, True)]
    (one,), (other,) = (run.values() for run in runs)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.ptp(one) > 0


def test_data_in_front_of_decoded_weights_is_not_rounded() -> None:
    """Onnxruntime would encode it in blocks, in a product of its own."""
    text = """<ir_version: 10, opset_import: ["": 21]> product (float[n,64] x) => (float[n,32] y) {
        weight = DequantizeLinear(codes, scale)
        y = MatMul(x, weight)
    }"""
    model, random = parser.parse_model(text), np.random.default_rng(0)
    codes = random.integers(-99, 99, (64, 32)).astype(np.int8)
    arrays = {"codes": codes, "scale": np.float32(0.01)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items())
    x = random.standard_normal((5, 64)).astype(np.float32)
    found = Session(Source(model), optimized=True).run({"x": x})["y"]
    np.testing.assert_allclose(found, x @ (codes * np.float32(0.01)), atol=1e-5)


def named(model: ModelProto) -> ModelProto:
    for node in model.graph.node:
        node.name = node.name or node.op_type
    return model


@pytest.mark.parametrize("form", [Form(), Form(per_channel=True), Form(np.int8, np.int8)])
def test_layers_that_may_saturate(form: Form) -> None:
    """Those between codes, as long as onnxruntime computes them in integers."""
    model = named(network(form, large=True))
    large, small = (saturating(load(each)) for each in (model, network(form)))
    assert [name.split("_")[0] for name in large] == ["Conv", "Gemm"] and not small
    if form.data is np.uint8:
        assert len(saturating(load(named(in_operators(model))))) == 2


@pytest.mark.parametrize("form", [Form(np.uint8, np.uint8), Form(np.int8, np.uint16, opset=21)])
def test_other_products_do_not_saturate(form: Form) -> None:
    assert not saturating(load(network(form, large=True)))


def test_a_sum_between_real_numbers_does_not_saturate() -> None:
    """A convolution whose sum is not encoded, and weights whose data is none, are computed in real numbers."""
    model = network(Form(), large=True)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    relu = next(node for node in model.graph.node if node.input[0] == conv.output[0])
    assert len(saturating(load(model))) == 2
    relu.op_type = "Softsign"
    assert len(saturating(load(model))) == 1
    decoders = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    decoders[gemm.input[0]].op_type = "Cast"
    del decoders[gemm.input[0]].input[1:]
    assert not saturating(load(model, check=False))


@pytest.mark.parametrize(
    ("pair", "cut"),
    [((100, 28), False), ((100, 29), True), ((-100, -28), False), ((-100, -29), True), ((64, 64), False)],
)
def test_two_weights_of_a_row_count(pair: tuple[int, int], cut: bool) -> None:
    """255 times 128 fits into 16 bits, and one less than that does below zero."""
    text = """<ir_version: 8, opset_import: ["": 17]> product (float[n,3] x) => (int32[n,2] y) {
        codes, scale, zero = DynamicQuantizeLinear(x)
        y = MatMulInteger(codes, w, zero)
    }"""
    for weight in ([pair, (3, 5), (1, 2)], np.transpose([pair, (3, 5)])):
        model = parser.parse_model(text.replace("n,3", f"n,{len(weight)}"))
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(weight, np.int8), "w"))
        together = len(weight) == 2  # else each of them belongs to another output
        assert saturating(load(model)) == (("y",) if cut and together else ())
