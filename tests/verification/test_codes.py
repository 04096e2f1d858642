"""Sums that tie between two codes are rounded either way; a wrong constant is not excused by that."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load
from onnxsqueeze.verification import verify
from onnxsqueeze.verification.following import Walk, observed
from onnxsqueeze.verification.pieces import Pieces
from tests.operators.quantization.test_random import FORMS, Random
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import Form


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXSQUEEZE_IN_PROCESS", "1")  # many small verifications


def both(form: Form, seed: int, length: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a random network of codes and its minimized form, which is narrower nearly everywhere."""
    model = Random(form, seed).network(length)
    with files_of_any_length():
        return model, sq.minimize(model, round_to=1, verify=False).model


def flipped() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a network with a sum right between two codes, in front of other layers, and its minimized form."""
    return both(Form(), 6856, 6)


def test_ties_between_codes() -> None:
    """One code is another, and so are those that follow from it, in a network of fewer channels."""
    model, small = flipped()
    report = verify(model, small)
    assert report.passed, report.reason
    assert report.settled_in_float64 and report.deviation > 1e-3


def plants(model: onnx.ModelProto, kind: str) -> Iterator[onnx.ModelProto]:
    """Yield models in which one number is wrong: a code of a bias or a weight by one, or a scale by 1 %."""
    scales = {node.input[1] for node in model.graph.node if node.op_type.endswith("quantizeLinear")}
    scales |= {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        bias, weight = tensor.data_type == TensorProto.INT32, array.ndim > 1 and array.dtype in (np.int8, np.uint8)
        if {"bias": bias, "weight": weight, "scale": tensor.name in scales}[kind]:
            place = np.unravel_index(array.size // 2, array.shape)
            array[place] = array[place] * np.float32(1.01) if kind == "scale" else array[place] + 1
            yield with_array(model, tensor.name, array)


def with_array(model: onnx.ModelProto, name: str, array: Any) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = [each for each in copy.graph.initializer if each.name == name]
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return copy


@pytest.mark.parametrize(("kind", "least"), [("scale", 0.95), ("weight", 0.75), ("bias", 0.5)])
def test_wrong_constants_are_caught(kind: str, least: float) -> None:
    """Of those that change no code of the inputs that were tried nobody can tell."""
    found = []
    for seed in (0, 1):
        model, small = both(FORMS[seed], seed, 1)
        assert verify(model, small).passed
        found += [verify(model, wrong).passed for wrong in islice(plants(small, kind), 4)]
    assert len(found) >= 4
    assert 1 - np.mean(found) >= least, found


def test_a_wrong_constant_is_caught_beside_ties() -> None:
    """What is excused is a tie, not the network."""
    model, small = flipped()
    for kind, index in (("scale", 4), ("weight", 0), ("bias", 1)):
        assert not verify(model, list(plants(small, kind))[index]).passed, kind


def test_codes_are_followed_through_a_gather() -> None:
    """What is gathered may have the name that the codes have in the other model: its scores are gathered likewise."""
    text = """<ir_version: 8, opset_import: ["": 17]> moved (float[n,3] x) => (float[n,4] y) {
        scale = Constant <value_float = 0.5> ()
        narrow = QuantizeLinear(x, scale)
        places = Constant <value_ints = [0, 2, 2, 1]> ()
        codes = Gather <axis = 1> (narrow, places)
        y = DequantizeLinear(codes, scale)
    }"""
    model, x = load(onnx.parser.parse_model(text)), np.random.default_rng(0).uniform(0, 9, (2, 3)).astype(np.float32)
    run = observed(model, {"x": x}, optimized=False, scores=False)
    np.testing.assert_array_equal(run.inside["codes"], run.inside["narrow"][:, [0, 2, 2, 1]])
    walk = Walk(Pieces(model, 60).steps({"x": x}), run)
    np.testing.assert_array_equal(walk.scores("codes")["x"], x[:, [0, 2, 2, 1]])
