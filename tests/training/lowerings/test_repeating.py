"""Expand, Tile, ConstantOfShape, Range, Trilu, Size, and pixels moved to channels and back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from tests.support.drawing import Draw, ints, scalar
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(4)
X = D.floats(3, 1, 4)

CASES = [
    Case("Expand", [X, ints(3, 5, 4)], (1,)),
    Case("Expand", [X, ints(2, 1, 6, 1)], (1,), label="longer"),
    Case("Expand", [X, ints(4)], (1,), label="shorter"),
    Case("Expand", [X, ints(2, 1, 5, 4)], label="computed"),
    Case("Tile", [X, ints(2, 3, 1)], (1,)),
    Case("Tile", [X, ints(2, 1, 2)], fixed=True, opset=11, label="computed"),
    Case("ConstantOfShape", [ints(2, 3)], fixed=True, differentiable=False),
    Case(
        "ConstantOfShape",
        [ints(2, 3)],
        fixed=True,
        differentiable=False,
        attributes={"value": numpy_helper.from_array(np.array([7], np.int64))},
        label="integers",
    ),
    Case("Range", [scalar(2), scalar(11), scalar(4)], differentiable=False),
    Case("Range", [scalar(9), scalar(0), scalar(-2)], differentiable=False, label="down"),
    Case("Range", [scalar(x, np.float32) for x in (0.5, 3.1, 0.4)], differentiable=False, label="floats"),
    Case("Range", [scalar(3), scalar(3), scalar(1)], differentiable=False, label="empty"),
    Case("Trilu", [D.floats(2, 4, 5)]),
    Case("Trilu", [D.floats(2, 4, 5), scalar(-1)], (1,), attributes={"upper": 0}, label="lower"),
    Case("Trilu", [D.floats(4, 4), scalar(2)], label="computed"),
    Case("Trilu", [D.bools(4, 4)], differentiable=False, label="bools"),
    Case("Size", [X], differentiable=False),
    Case("DepthToSpace", [D.floats(2, 12, 2, 3)], attributes={"blocksize": 2}),
    Case(
        "DepthToSpace", [D.floats(2, 12, 2, 3)], attributes={"blocksize": 2, "mode": "CRD"}, opset=11, label="columns"
    ),
    Case("SpaceToDepth", [D.floats(2, 3, 4, 6)], attributes={"blocksize": 2}),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)
