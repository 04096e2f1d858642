"""Gather, Scatter and their kin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxsqueeze.training.lowerings.gathering import gather
from tests.support.drawing import Draw, ints, scalar
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(2)
TABLE, X = D.floats(9, 4), D.floats(3, 5, 4)
ROWS = np.stack([D.integers(0, 5, 6), D.integers(-4, 4, 6)], -1)


def scattered(reduction: str, opset: int = 18) -> list[Case]:
    places, updates = np.array([[0, 3, 1], [4, -1, 0]]), D.floats(2, 3) + 3.0
    rows = np.array([[0, 1], [4, 3], [2, -1]])
    attributes = {"reduction": reduction} if reduction else {}
    operands = [D.floats(5, 4) + 3.0, places, updates]
    return [
        Case("ScatterElements", operands, (1,), opset=opset, attributes=attributes, label=f"{reduction}"),
        Case(
            "ScatterND", [operands[0], rows, D.floats(3) + 3], (1,), opset=opset, attributes=attributes, label=reduction
        ),
        Case("ScatterND", [operands[0], rows[:2, :1], D.floats(2, 4) + 3], opset=opset, attributes=attributes),
    ]


CASES = [
    Case("Gather", [TABLE, D.integers(-9, 9, 2, 6)], (0,), label="table"),
    Case("Gather", [TABLE, D.integers(0, 9, 2, 6).astype(np.int32)], opset=11, label="int32"),
    Case("Gather", [X, ints(1, 0, 1, -1)], (1,), attributes={"axis": 1}, label="stored"),
    Case("Gather", [X, scalar(-1)], (1,), attributes={"axis": 1}, label="one"),
    Case("Gather", [X, ints(2)], (1,), attributes={"axis": -1}, label="kept"),
    Case("Gather", [X, scalar(2)], attributes={"axis": 0}, label="computed"),
    Case("Gather", [X, D.integers(0, 4, 2, 3)], attributes={"axis": -1}, label="matrix"),
    Case("Gather", [D.integers(0, 9, 3, 4), ints(1, 2)], attributes={"axis": 1}, differentiable=False),
    Case("GatherElements", [X, D.integers(-5, 5, 3, 2, 4)], attributes={"axis": 1}),
    Case("GatherElements", [X, D.integers(0, 2, 2, 5, 4)], (1,), opset=11),
    Case("GatherND", [D.floats(5, 4, 3), ROWS], (1,)),
    Case("GatherND", [D.floats(5, 4), ROWS]),
    Case("GatherND", [D.floats(6, 5, 4, 2), ROWS[:, None]], attributes={"batch_dims": 1}, label="batch"),
    Case("GatherND", [D.floats(2, 3, 5, 4), ROWS.reshape(2, 3, 2)], attributes={"batch_dims": 2}, label="batches"),
    *scattered("", 13),
    *scattered("add"),
    *scattered("mul"),
    *scattered("max"),
    *scattered("min"),
    Case("ScatterElements", [X, D.integers(0, 1, 3, 1, 4), D.floats(3, 1, 4)], attributes={"axis": 1}),
    Case("OneHot", [D.integers(-5, 5, 2, 3), ints(5), D.floats(2)], (1,), label="last"),
    Case(
        "OneHot",
        [D.integers(-7, 9, 2, 3), scalar(5), D.floats(2)],
        (1, 2),
        attributes={"axis": 1},
        differentiable=False,
    ),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)


def test_a_choice_of_channels_leaves_the_axes_in_memory_as_they_are() -> None:
    """Depthwise convolutions are several times faster on channels that are last in memory."""
    places = torch.tensor([4, 0, -2])
    for data in (torch.randn(2, 6, 3, 5), torch.randn(2, 3, 5, 6).permute(0, 3, 1, 2), torch.randn(4, 6, 3).mT):
        axis = 1 if data.ndim == 4 else 2
        taken = gather(data, places, axis)
        assert taken.equal(data.index_select(axis, places % 6))
        lasts = [tensor.stride().index(min(tensor.stride())) for tensor in (data, taken)]
        assert lasts[0] == lasts[1]
