"""Comparisons, logic, bits, Where and Clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.drawing import Draw, scalar
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(5)
X, ODD = D.distinct(3, 4), np.array([1.0, np.nan, np.inf, -np.inf, 0.0], np.float32)


def compared(op: str) -> list[Case]:
    numbers = D.integers(0, 3, 3, 4)
    return [
        Case(op, [D.integers(0, 3, 3, 4).astype(np.float32), numbers.astype(np.float32)], differentiable=False),
        Case(op, [numbers, scalar(1)], (1,), opset=13, differentiable=False, label="integers"),
    ]


def unsigned(op: str, dtype: Any) -> list[Case]:
    operands = [D.integers(0, 200, 3, 4).astype(dtype), D.integers(0, 5, 4).astype(dtype)]
    shifts = [{"direction": "LEFT"}, {"direction": "RIGHT"}] if op == "BitShift" else [{}]
    return [Case(op, operands, attributes=attributes, differentiable=False) for attributes in shifts]


CASES = [
    *(case for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual") for case in compared(op)),
    *(Case(op, [D.bools(3, 4), D.bools(4)], differentiable=False) for op in ("And", "Or", "Xor", "Equal")),
    Case("Not", [D.bools(3, 4)], differentiable=False),
    *(case for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor") for case in unsigned(op, np.int64)),
    *unsigned("BitShift", np.uint8),
    Case("BitwiseNot", [D.integers(-5, 5, 3, 4)], differentiable=False),
    Case("IsNaN", [ODD], differentiable=False),
    Case("IsInf", [ODD], differentiable=False),
    Case("IsInf", [ODD], attributes={"detect_negative": 0}, differentiable=False, label="positive"),
    Case("IsInf", [ODD], attributes={"detect_positive": 0}, differentiable=False, label="negative"),
    Case("Where", [D.bools(3, 1), X, D.floats(4)]),
    Case("Where", [D.bools(2, 3, 4), X, D.floats(4)], (0, 1), opset=11, label="stored"),
    Case("Where", [D.bools(3, 4), D.integers(0, 9, 3, 4), scalar(-1)], (2,), differentiable=False, label="integers"),
    Case("Clip", [X, scalar(-0.8, np.float32), scalar(0.7, np.float32)], (1, 2)),
    Case("Clip", [X, None, scalar(0.7, np.float32)], (2,), opset=11, label="high"),
    Case("Clip", [X, scalar(-0.8, np.float32)], (1,), opset=12, label="low"),
    Case("Clip", [X, scalar(-0.8, np.float32), scalar(0.7, np.float32)], label="computed"),
    Case("Clip", [X, scalar(0.7, np.float32), scalar(-0.3, np.float32)], (1,), differentiable=False, label="crossed"),
    Case("Clip", [X], opset=6, attributes={"min": -0.8, "max": 0.7}, label="attributes"),
    Case("Clip", [X], opset=6, attributes={"max": 0.7}, label="attribute"),
    Case("Clip", [D.integers(-9, 9, 3, 4), scalar(-2), scalar(3)], (1, 2), opset=12, differentiable=False),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)
