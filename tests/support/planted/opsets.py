"""The twin that planted tests start from, once for each opset version, each time with other weights and places."""

from __future__ import annotations

import pytest

from tests.support.planted.layers import Twin

LATEST = 26  # the newest opset version that onnxruntime runs
OPSETS = (11, 13, 17, 21, LATEST)


@pytest.fixture(params=OPSETS, ids=lambda opset: f"opset{opset}")
def twin(request: pytest.FixtureRequest) -> Twin:
    """Return an empty twin at one opset version."""
    return Twin(seed=request.param, opset=request.param)
