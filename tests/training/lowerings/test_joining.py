"""Concat, Split, Slice, Pad, ReverseSequence, CumSum."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.drawing import Array, Draw, ints, scalar
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(1)
X = D.floats(4, 7, 6)
FAR = np.iinfo(np.int64).max


def sliced(starts: Array, ends: Array, *more: Array | None, label: str, stored: bool = True) -> Case:
    operands = [X, starts, ends, *more]
    places = [place for place, array in enumerate(operands) if place and array is not None]
    return Case("Slice", operands, tuple(places) if stored else (), label=label)


def padded(mode: str, pads: Array, *more: Array | None, label: str = "", opset: int = 21) -> Case:
    operands = [X, pads, *more]
    places = tuple(place for place, array in enumerate(operands) if place and array is not None)
    return Case("Pad", operands, places, attributes={"mode": mode}, label=f"{mode}{label}", opset=opset)


CASES = [
    Case("Concat", [X, D.floats(4, 2, 6), D.floats(4, 1, 6)], attributes={"axis": 1}),
    Case("Concat", [X, D.floats(4, 7, 5)], (1,), attributes={"axis": -1}, opset=11, label="stored"),
    Case("Split", [X, ints(2, 1, 4)], (1,), outputs=3, attributes={"axis": 1}),
    Case("Split", [X], outputs=3, opset=18, attributes={"axis": 1, "num_outputs": 3}, label="uneven"),
    Case("Split", [X], outputs=2, opset=11, attributes={"axis": -1}, label="equal"),
    Case("Split", [X], outputs=2, opset=11, attributes={"axis": -2, "split": [3, 4]}, label="attribute"),
    Case("Split", [X, ints(1, 3)], outputs=2, fixed=True, label="computed"),
    sliced(ints(1), ints(3), label="first"),
    sliced(ints(1, -4), ints(FAR, -1), ints(2, 1), label="axes"),
    sliced(ints(0, -1), ints(6, -FAR), ints(-1, 1), ints(2, -1), label="steps"),
    sliced(ints(5), ints(0), ints(1), ints(-2), label="back"),
    sliced(ints(-100), ints(100), ints(1), label="all"),
    sliced(ints(1), ints(5), ints(1), label="computed", stored=False),
    Case("Slice", [X], opset=9, attributes={"starts": [1, 0], "ends": [3, -2], "axes": [0, 2]}, label="attributes"),
    padded("constant", ints(0, 1, 2, 0, 3, 0)),
    padded("constant", ints(0, -1, 2, -1, 3, -2), scalar(1.5, np.float32), label="-cropped"),
    padded("constant", ints(2, 1), None, ints(-2), label="-axes"),
    padded("reflect", ints(0, 2, 1, 0, 3, 2)),
    padded("edge", ints(1, 2, 1, 0, 3, 2)),
    padded("wrap", ints(1, 2, 1, 0, 3, 2)),
    padded("reflect", ints(0, 2, 1, 0, 3, 2), opset=11, label="-11"),
    Case("Pad", [X], opset=10, attributes={"mode": "constant", "pads": [0, 1, 0, 0, 0, 2], "value": -2.0}),
    Case("Pad", [X, ints(0, 1, 0, 0, 0, 2)], fixed=True, label="computed"),
    Case("Pad", [D.bools(3, 4), ints(1, 0, 0, 2), scalar(True, bool)], (1, 2), differentiable=False, label="bools"),
    Case("Pad", [D.integers(-3, 9, 3, 4), ints(1, 0, 0, 2), scalar(7)], (1, 2), differentiable=False, label="integers"),
    Case("ReverseSequence", [D.floats(5, 3, 2), ints(4, 1, 5)], attributes={"time_axis": 0, "batch_axis": 1}),
    Case("ReverseSequence", [D.floats(3, 5, 2), ints(4, 1, 5)], (1,), attributes={"time_axis": 1, "batch_axis": 0}),
    Case("CumSum", [X, scalar(1)], (1,)),
    Case("CumSum", [X, scalar(-1)], (1,), attributes={"exclusive": 1}, label="exclusive"),
    Case("CumSum", [X, scalar(0)], (1,), attributes={"exclusive": 1, "reverse": 1}, label="both"),
    Case("CumSum", [D.integers(-4, 5, 3, 4), scalar(1)], (1,), attributes={"reverse": 1}, differentiable=False),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)
