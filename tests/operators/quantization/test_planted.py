"""Small networks of codes inside of wide ones: recovered, and equal bit for bit where runtimes compute in integers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest

import onnxsqueeze as sq
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import Codes, Form, Tensor, in_operators, outputs, shapes

FORMS = [
    Form(weights, data, per_channel, shifted)
    for (weights, data), per_channel, shifted in product(
        [(np.int8, np.uint8), (np.int8, np.int8), (np.uint8, np.uint8)], [False, True], [False, True]
    )
    if not (per_channel and shifted)  # onnxruntime wants zero points of 0 then
]
KINDS = {"live": 6, "dead": 3, "zero": 2, "const": 3, "off": 2}


def minimized(net: Codes, y: Tensor, operators: bool) -> onnx.ModelProto:
    """Minimize a network and compare it with what it was: the same bits from codes, nearly the same from reals."""
    model = net.model(y.name)
    if operators:
        model = in_operators(model)
    with files_of_any_length():  # a bias that is new takes more than the few weights of such a small network
        result = sq.minimize(model, round_to=1)
    assert result.report.verification is not None and result.report.verification.passed
    onnx.checker.check_model(result.model, full_check=True)
    for draw in range(3):
        values = {
            name: np.random.default_rng(draw).standard_normal(value.shape).astype("f")
            for name, value in net.example.items()
        }
        for before, after in zip(outputs(model, values), outputs(result.model, values), strict=True):
            np.testing.assert_array_equal(before, after)
    if operators:
        assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in model.graph.node]
    return result.model


def sizes(model: onnx.ModelProto) -> list[Any]:
    return sorted(shapes(model))


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_convolutions(form: Form, operators: bool) -> None:
    net = Codes(form)
    x = net.input("N", 3, 9, 9)
    x = net.layer("Conv", x, net.units(**KINDS), (3, 3), pads=[1, 1, 1, 1])
    x = net.layer("Conv", x, net.units(**KINDS), (3, 3))
    y = net.layer("Conv", x, net.units(live=4), (1, 1), relu=False)
    assert sizes(minimized(net, y, operators)) == sorted([(6, 3, 3, 3), (6, 6, 3, 3), (4, 6, 1, 1)])


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_dense_layers(form: Form, operators: bool) -> None:
    net = Codes(form, 5)
    x = net.input("N", 12)
    x = net.layer("Gemm", x, net.units(**KINDS))
    x = net.layer("Gemm", x, net.units(**KINDS))
    y = net.layer("Gemm", x, net.units(live=4), relu=False)
    assert sizes(minimized(net, y, operators)) == sorted([(6, 12), (6, 6), (4, 6)])


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_bias_where_there_was_none(form: Form, operators: bool) -> None:
    net = Codes(form, 2)
    x = net.layer("Conv", net.input("N", 3, 5, 5), net.units(**KINDS), (3, 3))
    y = net.layer("Conv", x, net.units(live=4), (1, 1), bias=False, relu=False)
    assert sizes(minimized(net, y, operators)) == sorted([(6, 3, 3, 3), (4, 6, 1, 1)])


MANY = KINDS | {"const": 8}
"""Of these one or two can stand for all: one if they are the same number, since small weights read them."""


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_of_constants_beside_padding_a_few_stay(form: Form, operators: bool) -> None:
    net = Codes(form, 3)
    x = net.layer("Conv", net.input("N", 3, 5, 5), net.units(**MANY), (3, 3))
    y = net.layer("Conv", x, net.units(live=4), (3, 3), pads=[1, 1, 1, 1], relu=False, small=True)
    found = sizes(minimized(net, y, operators))
    left = 8 if form.per_channel else 7
    assert found == sorted([(left, 3, 3, 3), (4, left, 3, 3)])


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_of_constants_that_no_bias_can_hold_a_few_stay(form: Form, operators: bool) -> None:
    net = Codes(form, 4)
    x = net.layer("Gemm", net.input("N", 12), net.units(**MANY))
    y = net.layer("MatMul", x, net.units(live=4), bias=False, relu=False, small=True)
    left = 8 if form.per_channel else 7
    assert sizes(minimized(net, y, operators)) == sorted([(left, 12), (left, 4)])


@pytest.mark.parametrize("operators", [False, True])
def test_a_choice_between_codes(operators: bool) -> None:
    """QLinearWhere: channels leave that are 0 on both sides, or constants that are the same number there."""
    net = Codes(Form(), 6)
    x = net.input("N", 3, 5, 5)
    kinds = net.units(**KINDS)
    one, two = (net.layer("Conv", x, kinds, (1, 1)) for _ in range(2))
    mean = net.add("ReduceMean", x.name, axes=[1], keepdims=1)
    chosen = net.add("Where", net.add("Greater", mean, net.store(np.float32(0))), one.name, two.name)
    y = net.layer("Conv", net.coded(chosen, kinds), net.units(live=4), (1, 1), relu=False)
    model = minimized(net, y, operators)
    assert sizes(model) == sorted([*[(9, 3, 1, 1)] * 2, (4, 9, 1, 1)])
    assert ("QLinearWhere" in {node.op_type for node in model.graph.node}) == operators


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_depthwise_layers_stay_operators_on_codes(operators: bool, per_channel: bool) -> None:
    """A bias of zeros is a bias."""
    net = Codes(Form(per_channel=per_channel), 7)
    kinds = net.units(live=6, zero=4)
    x = net.layer("Conv", net.input("N", 3, 6, 6), kinds, (1, 1))
    x = net.layer("Conv", x, kinds, (3, 3), group=len(kinds), pads=[1, 1, 1, 1])
    stored = net.nodes[-4].input[2]
    (bias,) = (node.input[0] for node in net.nodes if node.output[0] == stored)
    net.initializers[bias][:] = 0
    y = net.layer("Conv", x, net.units(live=4), (1, 1), relu=False)
    assert sizes(minimized(net, y, operators)) == sorted([(6, 3, 1, 1), (6, 1, 3, 3), (4, 6, 1, 1)])
