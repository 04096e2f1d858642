"""Layers of codes with their channels last, as onnxruntime saves them at its highest level, lose them as others do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxsqueeze as sq
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import MICROSOFT, Codes, Form, Tensor, in_operators, outputs, shapes

KINDS = {"live": 6, "dead": 3, "zero": 2, "const": 3, "off": 2}
TURNED = {
    "QLinearConv": "QLinearConv",
    "QLinearAveragePool": "QLinearAveragePool",
    "QLinearGlobalAveragePool": "QLinearGlobalAveragePool",
    "MaxPool": "NhwcMaxPool",
}


def channels_last(model: onnx.ModelProto, rank: int = 4) -> onnx.ModelProto:
    """Return the same with the channels of layers and pools last, and Transposes around each that do not cancel."""
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    nodes = []
    for node in model.graph.node:
        if node.op_type not in TURNED:
            nodes.append(node)
            continue
        x, y = f"{node.output[0]}.x", f"{node.output[0]}.y"
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.op_type, copy.domain, copy.input[0], copy.output[0] = TURNED[node.op_type], MICROSOFT, x, y
        kept = [entry for entry in node.attribute if entry.name not in ("channels_last", "storage_order")]
        more = [] if node.op_type == "MaxPool" else [helper.make_attribute("channels_last", 1)]
        del copy.attribute[:]
        copy.attribute.extend([*kept, *more])
        nodes += [
            helper.make_node("Transpose", [node.input[0]], [x], perm=last),
            copy,
            helper.make_node("Transpose", [y], list(node.output), perm=first),
        ]
    del turned.graph.node[:], turned.graph.value_info[:]
    turned.graph.node.extend(nodes)
    return turned


def minimized(model: onnx.ModelProto, feeds: dict[str, Any]) -> onnx.ModelProto:
    """Minimize; assert that the operators are as they were, and the outputs the same to the bit."""
    with files_of_any_length():
        result = sq.minimize(model, round_to=1)
    assert result.report.verification is None or result.report.verification.passed
    for before, after in zip(outputs(model, feeds), outputs(result.model, feeds), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in model.graph.node]
    return result.model


def pooled(net: Codes, x: Tensor, op: str, **attributes: Any) -> Tensor:
    return net.coded(net.add(op, x.name, **attributes), x.kinds)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "form", [Form(), Form(np.int8, np.int8, True), Form(np.uint8, np.uint8, shifted=True)], ids=str
)
def test_images(form: Form, bias: bool) -> None:
    net = Codes(form)
    x = net.input("N", 3, 12, 12)
    x = net.layer("Conv", x, net.units(**KINDS), (3, 3), bias=bias, pads=[1, 1, 1, 1])
    x = pooled(net, x, "MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    x = net.layer("Conv", x, net.units(**KINDS), (3, 3))
    x = pooled(net, x, "AveragePool", kernel_shape=[2, 2])
    x = net.layer("Conv", x, net.units(**KINDS), (1, 1))
    x = pooled(net, x, "GlobalAveragePool")
    y = net.layer("Conv", x, net.units(live=4), (1, 1), relu=False)
    model = channels_last(in_operators(net.model(y.name)))
    operators = {node.op_type for node in model.graph.node}
    assert {"NhwcMaxPool", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConv"} <= operators
    small = [(6, 3, 3, 3), (6, 6, 3, 3), (6, 6, 1, 1), (4, 6, 1, 1)]
    if bias:
        assert sorted(shapes(minimized(model, net.example))) == sorted(small)
    else:
        assert shapes(minimized(model, net.example))[0][0] < 16


def test_signals() -> None:
    """Of one axis of space."""
    net = Codes(Form())
    x = net.layer("Conv", net.input("N", 3, 12), net.units(**KINDS), (3,))
    y = net.layer("Conv", x, net.units(live=4), (1,), relu=False)
    model = channels_last(in_operators(net.model(y.name)), 3)
    assert sorted(shapes(minimized(model, net.example))) == sorted([(6, 3, 3), (4, 6, 1)])


def test_of_an_unknown_rank_they_stay() -> None:
    """A pool over everything does not say how many axes there are, and nothing in front of it does here."""
    net = Codes(Form())
    x = net.layer("Conv", net.input("N", 3, 6, 6), net.units(**KINDS), (3, 3))
    x = pooled(net, x, "GlobalAveragePool")
    y = net.layer("Conv", x, net.units(live=4), (1, 1), relu=False)
    model = in_operators(net.model(y.name))
    (pool,) = [node for node in model.graph.node if node.op_type == "QLinearGlobalAveragePool"]
    model = channels_last(model)
    (turn,) = [node for node in model.graph.node if node.output[0] == f"{pool.output[0]}.x"]
    turned = helper.make_node("Expand", [turn.output[0], "as_it_is"], ["of_unknown_rank"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.int64), "as_it_is"))
    (last,) = [node for node in model.graph.node if node.input[0] == turn.output[0] and node is not turn]
    last.input[0] = "of_unknown_rank"
    model.graph.node.insert(list(model.graph.node).index(last), turned)
    assert shapes(minimized(model, net.example)) == shapes(model)
