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
    y = net.layer("Conv", x, net.units(live=4), (3, 3), pads=[1, 1, 1, 1], relu=False)
    found = sizes(minimized(net, y, operators))
    left = 8 if form.per_channel else 7
    assert found == sorted([(left, 3, 3, 3), (4, left, 3, 3)])


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_of_constants_that_no_bias_can_hold_a_few_stay(form: Form, operators: bool) -> None:
    net = Codes(form, 4)
    x = net.layer("Gemm", net.input("N", 12), net.units(**MANY))
    y = net.layer("MatMul", x, net.units(live=4), bias=False, relu=False)
    left = 8 if form.per_channel else 7
    assert sizes(minimized(net, y, operators)) == sorted([(left, 12), (left, 4)])
