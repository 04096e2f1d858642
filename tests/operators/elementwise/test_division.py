"""0 divided by whatever may be 0 is 0, as long as nobody looks for NaN; 0 / 0 itself is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxsqueeze as sq

DEAD = [1, 4, 5]


def network(middle: str, second: str = "g") -> onnx.ModelProto:
    """A Gemm of which some units are dead, something in between, and a Gemm that reads it."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> n
        (float[n,5] x) => (float[n,3] y) {{ h = Gemm (x, w) {middle} y = Gemm ({second}, v) }}""")
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(5, 7)), "v": random.normal(size=(7, 3)), "some": random.normal(size=7)}
    weights["w"][:, DEAD] = 0
    weights["some"][DEAD] = 0
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()
    )
    return model


@pytest.mark.parametrize(
    "middle",
    [
        "n = ReduceL2 <axes = [1], keepdims = 1> (h) g = Div (h, n)",
        "s = ReduceMax <axes = [1], keepdims = 1> (x) g = Div (h, s)",
        "s = ReduceSumSquare <axes = [1], keepdims = 1> (x) a = Neg (s) g = Div (h, a)",
    ],
    ids=["by its own norm", "by any sign", "by what is never positive"],
)
def test_zeros_over_a_number_that_may_be_0_leave(middle: str) -> None:
    result = sq.minimize(network(middle), round_to=1)
    assert result.report.weights_after == 4 * (5 + 3)


def test_they_stay_where_somebody_looks_for_nan() -> None:
    looked = "n = ReduceL2 <axes = [1], keepdims = 1> (h) q = Div (h, n) m = IsNaN (q) g = Where (m, some, q)"
    assert sq.minimize(network(looked), round_to=1).report.weights_after == 7 * (5 + 3) + 7


def test_what_is_always_0_over_0_stays() -> None:
    result = sq.minimize(network("g = Div (h, some)"), round_to=1, verify=False)
    assert result.report.weights_after == 7 * (5 + 3) + 7
