"""Norms that onnxruntime's optimizer fused with the sum in front of them lose their constants like others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.planted.checks import assert_equal_outputs, minimize, weights
from tests.support.planted.norm_networks import FEATURES, NormNetwork

DOMAIN = "com.microsoft"
WIDTH, GONE, UNITS = 16, 6, 3
OPERATORS = {"SkipLayerNormalization": {"zero": 1, "different": 2}, "SkipSimplifiedLayerNormalization": {"zero": 0}}
"""How many constants of a kind stand for all the others."""


def skip_norm(net: NormNetwork, op: str, x: str, branch: str, *, bias: bool, shift: bool, outputs: int) -> list[str]:
    """Add the norm of a stream, a branch and perhaps a bias; with 4 ``outputs``, their sum is the last."""
    added = net.normal(net.width)
    added[net.gone] = 0
    vectors = [net.weight(net.normal(net.width))]
    if op == "SkipLayerNormalization":
        vectors.append(net.weight(net.normal(net.width)) if shift else "")
    vectors.append(net.weight(added) if bias else "")
    while not vectors[-1]:
        vectors.pop()
    name = net.node(op, x, branch, *vectors, domain=DOMAIN, **({"epsilon": 1e-2} if bias else {}))
    net.nodes[-1].output.extend(["", "", f"{name}_sum"][: outputs - 1])
    return list(net.nodes[-1].output)


def matrices(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of stored weights with more than one axis longer than the two representatives."""
    return [shape for shape in weights(model) if sum(size > 2 for size in shape) > 1]


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("op", "constants"), [(op, kind) for op, kinds in OPERATORS.items() for kind in kinds])
@pytest.mark.parametrize("opset", [14, 17, 18, 23])
def test_two_blocks(opset: int, op: str, constants: str, bias: bool) -> None:
    """The first norm also writes the sum, which the second reads."""
    net = NormNetwork(WIDTH, GONE, constants, opset=opset)
    x = net.stream()
    normed, *_, total = skip_norm(net, op, x, net.branch(x), bias=bias, shift=True, outputs=4)
    last = skip_norm(net, op, total, net.branch(normed), bias=False, shift=bias, outputs=1)[0]
    model = net.model(net.linear(last, UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    left = WIDTH - GONE + OPERATORS[op][constants]
    expected = [(FEATURES, left), (left, 6), (6, left), (left, 6), (6, left), (left, UNITS)]
    assert matrices(result.model) == sorted(expected), dict(result.report.stayed)


@pytest.mark.parametrize("op", OPERATORS)
def test_sum_that_is_a_graph_output(op: str) -> None:
    net = NormNetwork(WIDTH, GONE, opset=17)
    x = net.stream()
    normed, *_, total = skip_norm(net, op, x, net.branch(x), bias=True, shift=True, outputs=4)
    model = net.model(net.linear(normed, UNITS), total)
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model, double=False)
    assert matrices(result.model) == matrices(model)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(("dtype", "opset"), [(np.float32, 17), (np.float32, 14), (np.float16, 14)])
def test_nothing_leaves(op: str, dtype: Any, opset: int) -> None:
    """The model is as it was."""
    net = NormNetwork(WIDTH, 0, opset=opset, dtype=dtype)
    x = net.stream()
    model = net.model(net.linear(skip_norm(net, op, x, net.branch(x), bias=True, shift=True, outputs=1)[0], UNITS))
    assert minimize(model).model.graph.node == model.graph.node


@pytest.mark.parametrize(
    ("op", "opset"),
    [*((op, opset) for op in OPERATORS for opset in (13, 14, 17, 18)), ("SkipSimplifiedLayerNormalization", 23)],
)
def test_half_precision(op: str, opset: int) -> None:
    """Where the opset has no such norm, its squares are added up in float32."""
    net = NormNetwork(WIDTH, GONE, opset=opset, dtype=np.float16)
    x = net.stream()
    model = net.model(net.linear(skip_norm(net, op, x, net.branch(x), bias=True, shift=True, outputs=1)[0], UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model, tolerance=5e-3, double=False)  # ten roundings of 5e-4 each
    left = WIDTH - GONE + OPERATORS[op]["zero"]
    assert matrices(result.model) == sorted([(FEATURES, left), (left, 6), (6, left), (left, UNITS)])


@pytest.mark.parametrize("op", OPERATORS)
def test_a_branch_of_codes_that_is_constant(op: str) -> None:
    """What decodes its one value for all tokens does not stand for a branch: onnxruntime wants the stream's shape."""
    random = np.random.default_rng(0)
    arrays = {"w": np.zeros((8, 8), np.int8), "v": random.integers(-9, 9, (8, 3)).astype(np.int8)}
    arrays |= {"c": random.integers(-90, 90, 8).astype(np.float32) / 8, "g": random.uniform(1, 2, 8).astype(np.float32)}
    arrays |= {"s": np.float32(0.125), "z": np.int8(0)}
    shift = ", g" if op == "SkipLayerNormalization" else ""
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17, "{DOMAIN}": 1]> coded
        (float[n,5,8] x) => (float[n,5,3] y) {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) m = DequantizeLinear(w, s, z) p = MatMul(d, m)
        a = Add(p, c) e = QuantizeLinear(a, s, z) b = DequantizeLinear(e, s, z)
        o = {DOMAIN}.{op}(d, b, g{shift}) u = DequantizeLinear(v, s, z) y = MatMul(o, u) }}""")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    assert "w" not in {tensor.name for tensor in result.model.graph.initializer}
