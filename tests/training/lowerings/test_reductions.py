"""Reductions, ArgMax, TopK, NonZero."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.drawing import Draw, ints, scalar
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(3)
X = D.distinct(3, 4, 5)
TIES = np.array([[1, 3, 3, 0], [2, 2, 2, 2], [0, -1, 4, 4]], np.float32)
SMOOTH = ("Mean", "Sum", "L1", "L2", "SumSquare", "LogSumExp", "Max", "Min", "Prod")


def reductions() -> list[Case]:
    found = []
    for name in SMOOTH:
        op = f"Reduce{name}"
        data = D.positive(3, 4, 5) if name == "Prod" else X
        late = 13 if name == "Sum" else 18
        early = {"opset": 11, "attributes": {"axes": [1, -1], "keepdims": 0}}
        found += [
            Case(op, [data, ints(1)], (1,), opset=late, label="axis"),
            Case(op, [data, ints(-1, 0)], (1,), opset=20, attributes={"keepdims": 0}, label="axes"),
            Case(op, [data], opset=20, attributes={"keepdims": 0}, label="everything"),
            Case(op, [data], opset=11, label="kept"),
            Case(op, [data], label="attribute", **early),
            Case(op, [data, ints()], (1,), opset=20, attributes={"noop_with_empty_axes": 1}, label="none"),
        ]
    return found


CASES = [
    *reductions(),
    Case("ReduceLogSum", [D.positive(3, 4), ints(1)], (1,), opset=18),
    Case("ReduceSum", [X, ints(1)], opset=20, fixed=True, label="computed"),
    Case("ReduceMean", [scalar(2.0, np.float32)], opset=20, label="scalar"),
    Case("ReduceSum", [D.integers(-5, 5, 3, 4), ints(0)], (1,), differentiable=False, label="integers"),
    Case("ReduceMean", [D.integers(-9, 9, 3, 4).astype(np.int32)], opset=11, differentiable=False, label="integers"),
    Case("ReduceMax", [D.bools(3, 4), ints(0)], (1,), differentiable=False, label="bools"),
    *(
        Case(op, [TIES], differentiable=False, label=f"{axis}{last}{keep}", attributes=attributes)
        for op in ("ArgMax", "ArgMin")
        for axis in (0, -1)
        for last in (0, 1)
        for keep in (0, 1)
        for attributes in [{"axis": axis, "select_last_index": last, "keepdims": keep}]
    ),
    Case("TopK", [X, ints(2)], (1,), outputs=2),
    Case("TopK", [X, ints(3)], (1,), outputs=2, opset=11, attributes={"axis": 1, "largest": 0}, label="smallest"),
    Case("TopK", [TIES, ints(3)], (1,), outputs=2, differentiable=False, label="ties"),
    Case("TopK", [TIES, ints(2)], outputs=2, attributes={"axis": 0}, differentiable=False, label="computed"),
    Case("TopK", [X], outputs=2, opset=9, attributes={"k": 2, "axis": 1}, label="attribute"),
    Case("NonZero", [np.array([[1, 0, 2], [0, 3, 0]], np.float32)], differentiable=False),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)
