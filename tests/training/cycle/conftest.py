"""Most runs of these tests are not drawn: matplotlib takes longer for a picture than a small network for a cycle."""

from __future__ import annotations

import pytest

from onnxsqueeze.training.cycle import publishing


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no picture, unless a test asks for it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(publishing, "picture", lambda *_: b"a picture")


@pytest.fixture
def drawn() -> None:
    """Draw pictures in a test that asks for this."""
