"""Sizes that a graph computes from shapes which change: followed where that is right, else held at the original's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from planted.checks import assert_equal_outputs, minimize, operators, size

CHANNELS, LIVE = 8, (0, 2, 3, 5, 6, 7)
SMALLEST = len(LIVE) * 3 + 2 * len(LIVE)  # of the two convolutions around what is tested


def network(text: str, image: str = "N,3,H,W", output: str = "float[N,2,h,w] y", **constants: Any) -> onnx.ModelProto:
    """Return ``x = Conv(image)``, then the given nodes that make ``z``, then ``y = Conv(z)``, which reads LIVE channels."""
    random = np.random.default_rng(len(text))
    second = np.zeros((2, CHANNELS, 1, 1), np.float32)
    second[:, LIVE] = random.standard_normal((2, len(LIVE), 1, 1))
    weights = {"first": random.standard_normal((CHANNELS, 3, 1, 1)).astype(np.float32), "second": second}
    given = {name: np.asarray(value, None if np.ndim(value) == 0 else np.int64) for name, value in constants.items()}
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]> sizes (float[{image}] image) => ({output})
        {{ x = Conv(image, first) {text} y = Conv(z, second) }}"""
    )
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (weights | given).items())
    onnx.checker.check_model(model, full_check=True)
    return model


def minimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Minimize a network, assert that it is equal and has the smallest weights, and return it."""
    smaller = minimize(model).model
    assert_equal_outputs(model, smaller)
    assert size(smaller) == SMALLEST
    return smaller


def test_division_by_the_channel_count_sees_the_original_count() -> None:
    model = network("s = Shape(x) c = Gather(s, one) f = Cast<to = 1>(c) z = Div(x, f)", one=1)
    assert operators(minimized(model))["Where"] == 1
