"""Multiply-accumulates are counted at sizes at which the network runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq

CHANNELS = 4


def spectrum(kernel: int, stride: int = 1) -> onnx.ModelProto:
    """Return a 1-D convolution over a dynamic length."""
    weight = np.random.default_rng(0).normal(size=(CHANNELS, 1, kernel)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride], name="windows")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, "samples"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CHANNELS, "frames"])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("kernel", "assumed"), [(3, 64), (64, 64), (65, 128), (400, 512), (5000, 8192)])
def test_the_assumed_length_is_long_enough_for_the_kernel(kernel: int, assumed: int) -> None:
    report = sq.inspect(spectrum(kernel))
    assert report.sizes == {"samples": assumed}
    assert report.macs_before == (assumed - kernel + 1) * CHANNELS * kernel


def test_no_length_is_long_enough() -> None:
    """Something is counted all the same."""
    report = sq.inspect(spectrum(200_000))
    assert report.sizes == {"samples": 64}
    assert report.macs_before == CHANNELS * 200_000


def test_a_length_that_was_given_counts() -> None:
    assert sq.inspect(spectrum(400, 160), dims={"samples": 16000}).sizes == {"samples": 16000}
    short = sq.inspect(spectrum(400), dims={"samples": 100})
    assert short.sizes == {"samples": 100}
    assert short.macs_before > 0
