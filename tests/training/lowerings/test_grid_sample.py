"""GridSample in all modes that torch has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxsqueeze.errors import UsageError
from tests.support.drawing import Draw
from tests.training.lowerings.checking import Case, check

D = Draw(7)
GRID = np.clip(0.7 * D.floats(2, 3, 4, 2), -1.9, 1.9)
IMAGE, VOLUME = D.floats(2, 3, 5, 6), D.floats(2, 2, 3, 4, 5)


def sampled(mode: str, padding: str, aligned: int, opset: int = 20, volume: bool = False) -> Case:
    grid = np.clip(0.7 * D.floats(2, 2, 3, 4, 3), -1.9, 1.9) if volume else GRID
    attributes: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    label = f"{mode}-{padding}-{aligned}-{'volume' if volume else 'image'}"
    return Case("GridSample", [VOLUME if volume else IMAGE, grid], opset=opset, attributes=attributes, label=label)


WAYS = [(padding, aligned) for padding in ("zeros", "border", "reflection") for aligned in (0, 1)]
CASES = [
    *(sampled(mode, *way) for mode in ("linear", "nearest", "cubic") for way in WAYS),
    *(sampled(mode, *way, opset=16) for mode in ("bilinear", "nearest", "bicubic") for way in WAYS),
    *(sampled(mode, *way, volume=True) for mode in ("linear", "nearest") for way in WAYS),
    Case("GridSample", [IMAGE, GRID], label="defaults"),
    Case("GridSample", [IMAGE, GRID], (1,), label="stored grid"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_form(case: Case) -> None:
    check(case)


def test_what_torch_does_not_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="cubic GridSample of rank 5 cannot be trained"):
        check(sampled("cubic", "zeros", 0, volume=True))
    with pytest.raises(UsageError, match="linear GridSample of rank 3 cannot be trained"):
        check(Case("GridSample", [D.floats(2, 3, 5), D.floats(2, 4, 1)]))
