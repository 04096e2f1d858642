"""How long a step will take is said once its pace is known."""

from __future__ import annotations

import pytest

from onnxsqueeze.cli.progress import time_left


@pytest.mark.parametrize(
    ("seconds", "start", "fraction", "words"),
    [
        (10.0, 0.0, 0.25, "about 30 s left"),
        (10.0, 0.5, 0.75, "about 10 s left"),  # half of it had been done before anything was shown
        (60.0, 0.0, 0.25, "about 3 min 00 s left"),
        (5.0, 0.0, 1.0, "about 0 s left"),
        (10.0, 0.0, None, ""),
        (0.5, 0.0, 0.5, ""),
        (10.0, 0.3, 0.31, ""),
    ],
)
def test_time_left(seconds: float, start: float, fraction: float | None, words: str) -> None:
    assert time_left(seconds, start, fraction) == words
