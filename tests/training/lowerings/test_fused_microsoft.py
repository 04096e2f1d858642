"""What onnxruntime's optimizers write."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.drawing import Draw
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(3)
X, MICROSOFT = D.floats(3, 5, 8), "com.microsoft"

CASES = [
    Case("Gelu", [X], domain=MICROSOFT),
    Case("BiasGelu", [X, D.floats(8)], (1,), domain=MICROSOFT),
    Case("FastGelu", [X], domain=MICROSOFT),
    Case("FastGelu", [X, D.floats(8)], (1,), domain=MICROSOFT, label="bias"),
    Case("QuickGelu", [X], domain=MICROSOFT),
    Case("QuickGelu", [X], domain=MICROSOFT, attributes={"alpha": 1.3}, label="alpha"),
    Case("FusedGemm", [X[0], D.floats(8, 4), D.floats(4)], (1, 2), domain=MICROSOFT, attributes={"activation": "Tanh"}),
    Case(
        "FusedConv",
        [D.floats(2, 3, 6, 5), D.floats(4, 3, 3, 3), D.floats(4), D.floats(2, 4, 4, 3)],
        (1, 2),
        domain=MICROSOFT,
        attributes={"activation": "LeakyRelu", "activation_params": [0.3]},
    ),
    Case(
        "EmbedLayerNormalization",
        [np.array([[1, 4, 0], [2, 2, 3]], np.int32), np.array([[0, 1, 1], [0, 0, 1]], np.int32)]
        + [D.floats(5, 8), D.floats(6, 8), D.floats(2, 8), D.floats(8), D.floats(8)],
        (2, 3, 4, 5, 6),
        domain=MICROSOFT,
        names=["y", "", "sum"],
        outputs=2,
    ),
    Case("FusedMatMul", [X, D.floats(3, 6, 8)], domain=MICROSOFT, attributes={"transB": 1, "alpha": 0.3}, label="b"),
    Case("FusedMatMul", [X, D.floats(5, 6)], (1,), domain=MICROSOFT, attributes={"transA": 1}, label="a"),
    Case(
        "FusedMatMul",
        [D.floats(4, 3, 8), D.floats(8, 3, 6)],
        domain=MICROSOFT,
        attributes={"transBatchA": 1, "transBatchB": 1},
        label="batch",
    ),
    Case(
        "FusedMatMul",
        [D.floats(8, 3, 4), D.floats(6, 3, 8)],
        domain=MICROSOFT,
        attributes={"transBatchA": 1, "transBatchB": 1, "transA": 1, "transB": 1},
        label="batch, swapped",
    ),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)
