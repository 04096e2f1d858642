"""LRN: channels at the ends leave, those between others do not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, weights


def network(size: int, zero: tuple[int, ...] = (), unread: tuple[int, ...] = (), constant: int = -1) -> ModelProto:
    """Ten channels behind a convolution, some of them zeros or unread behind the normalization."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> responses
        (float[n,3,6,6] x) => (float[n,2,6,6] y) {{
        h = Conv(x, wa, b) r = LRN <size = {size}, alpha = 0.5, beta = 0.75, bias = 1.5> (h) y = Conv(r, wb) }}""")
    random = np.random.default_rng(0)
    shapes = {"wa": (10, 3, 1, 1), "b": (10,), "wb": (2, 10, 1, 1)}
    arrays = {name: random.normal(size=shape) for name, shape in shapes.items()}
    arrays["wa"][[*zero]], arrays["b"][[*zero]], arrays["wb"][:, [*unread]] = 0, 0, 0
    if constant >= 0:
        arrays["wa"][constant] = 0
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


@pytest.mark.parametrize(
    ("size", "zero", "unread", "left"),
    [
        (3, (0, 1, 9), (), 7),
        (3, (0, 4), (), 9),  # the fourth keeps its neighbours apart
        (5, (8, 9), (1, 7), 8),
        (5, (), (7, 8, 9), 10),  # what is not read, but no zero, counts for its neighbours, and those for theirs
        (1, (2, 5), (3,), 7),
    ],
)
def test_channels_at_the_ends_leave(size: int, zero: tuple[int, ...], unread: tuple[int, ...], left: int) -> None:
    model = network(size, zero, unread)
    result = minimize(model).model
    assert_equal_outputs(model, result, double=False)  # onnx's reference takes the batch for the channels
    assert (left, 3, 1, 1) in weights(result)


def test_a_constant_counts() -> None:
    model = network(3, constant=9)
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    assert weights(result.model) == weights(model)
    assert any("LRN over 3 channels" in reason for reason in result.report.stayed)


@pytest.mark.parametrize("attributes", ["alpha = -0.001, beta = 0.75", "alpha = 0.5, beta = -0.75", "bias = 0.0"])
def test_a_divisor_that_may_be_zero(attributes: str) -> None:
    """Nothing is known of what comes out then: all channels stay."""
    model = network(1, (2, 5), (3,))
    (node,) = [node for node in model.graph.node if node.op_type == "LRN"]
    given = parser.parse_graph(f"g (float[1,1,1] x) => (float[1,1,1] y) {{ y = LRN <size = 1, {attributes}> (x) }}")
    del node.attribute[:]
    node.attribute.extend(given.node[0].attribute)
    result = minimize(model)
    assert weights(result.model) == weights(model)
    assert any("LRN with a divisor that may be 0" in reason for reason in result.report.stayed)
