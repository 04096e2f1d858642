"""DFT, STFT, MelWeightMatrix, and the Scaler and Normalizer in front of tabular networks."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsqueeze.errors import UsageError
from tests.support.drawing import Draw, scalar
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(7)
SCALES = [2.0, 0.5, 3, 1]
MEL = [scalar(8), scalar(64), scalar(16000), scalar(40.0, np.float32), scalar(7600.0, np.float32)]

CASES = [
    Case("DFT", [D.floats(3, 8, 2)], opset=17),
    Case("DFT", [D.floats(3, 8, 5, 1), scalar(6), scalar(2)], (1, 2), attributes={"onesided": 1}),
    Case("DFT", [D.floats(3, 8, 2), None, scalar(1)], (2,), attributes={"inverse": 1}, label="inverse"),
    Case("STFT", [D.floats(2, 20, 1), scalar(4), D.positive(8)], (1, 2), opset=17),
    Case("STFT", [D.floats(2, 20, 1), scalar(3), None, scalar(8)], (1, 3), opset=17, attributes={"onesided": 0}),
    Case("MelWeightMatrix", MEL, (0, 1, 2, 3, 4), differentiable=False, fixed=True),
    Case("Scaler", [D.floats(3, 4)], domain="ai.onnx.ml", attributes={"offset": [0.5, 1, -2, 0], "scale": SCALES}),
    Case("Scaler", [D.floats(3, 4)], domain="ai.onnx.ml", attributes={"offset": [0.5], "scale": [2.0]}, label="one"),
    Case("Normalizer", [D.floats(3, 4)], domain="ai.onnx.ml", attributes={"norm": "L1"}, label="L1"),
    Case("Normalizer", [D.floats(3, 4)], domain="ai.onnx.ml", attributes={"norm": "L2"}, label="L2"),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)


def test_half_a_spectrum_is_not_transformed_back() -> None:
    case = Case("DFT", [D.floats(3, 8, 2)], opset=17, attributes={"inverse": 1, "onesided": 1}, reference=True)
    with pytest.raises(UsageError, match="inverse and one-sided"):
        check(case)
