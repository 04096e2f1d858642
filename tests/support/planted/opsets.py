"""The twin that planted tests start from, at several opset versions, each time with other weights and places."""

from __future__ import annotations

import pytest

from tests.support.extent import LONG
from tests.support.planted.layers import Twin

LATEST = 26  # the newest opset version that onnxruntime runs
OPSETS = (11, 13, 17, 21, LATEST)
TRIED = OPSETS if LONG else (11, 17, LATEST)
"""Every operator that the twins are made of is written as in one of these where it is at any of the others."""


@pytest.fixture(params=TRIED, ids=lambda opset: f"opset{opset}")
def twin(request: pytest.FixtureRequest) -> Twin:
    """Return an empty twin at one opset version."""
    return Twin(seed=request.param, opset=request.param)
