"""What torchao's quantizers of exported programs write: weights of codes for each channel, biases of real numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxsqueeze as sq
from tests.support.quantized import Codes, Form, outputs, shapes


def exported(const: int) -> tuple[onnx.ModelProto, Codes]:
    """Return two convolutions and a product whose biases are stored as what their codes stand for."""
    net = Codes(Form(per_channel=True, opset=21))
    x = net.input("N", 3, 6, 6)
    for _ in range(2):
        x = net.layer("Conv", x, net.units(live=5, dead=2, zero=3, off=1, const=const), (3, 3), pads=[1, 1, 1, 1])
    flat = net.coded(net.add("GlobalAveragePool", x.name), x.kinds)
    flat.name = net.add("Flatten", flat.name)
    model = net.model(net.layer("Gemm", flat, net.units(live=4), relu=False).name)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        codes = stored.get(node.input[0])
        if node.op_type == "DequantizeLinear" and codes is not None and codes.dtype == np.int32:
            model.graph.node.remove(node)
            real = (codes * stored[node.input[1]]).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(real, node.output[0]))
    return model, net


@pytest.mark.parametrize("const", [0, 3])
def test_biases_of_real_numbers(const: int) -> None:
    """Units leave; constants fold into these biases, or some stand in for others beside padding."""
    model, net = exported(const)
    small = sq.minimize(model, round_to=1).model
    kept = {dims for dims in shapes(small) if len(dims) == 4}
    assert (5, 3, 3, 3) in kept or const
    assert max(dims[0] for dims in kept) <= 5 + const and min(dims[0] for dims in kept) == 5
    assert all(tensor.data_type != TensorProto.INT32 for tensor in small.graph.initializer)
    for optimized in (False, True):
        before, after = (outputs(each, net.example, optimized)[0] for each in (model, small))
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
