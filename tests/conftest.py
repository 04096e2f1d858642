"""The environment of all tests.

One thread for each worker: several that take turns on one processor wait for each other most of the time. And an error
in a rule is an error: a run would otherwise leave the node as it is, and go on. And verification stays in the
tests' own process, which spares thousands of starts and lets tests put things in the place of others; not so in
tests/processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ONNXSQUEEZE_STRICT", "1")

os.environ.setdefault("ONNXSQUEEZE_IN_PROCESS", "1")

pytest_plugins = ["tests.support.planted.opsets"]


@pytest.fixture
def any_length() -> Iterator[None]:
    """See `files_of_any_length`."""
    from tests.support.planted.checks import files_of_any_length

    with files_of_any_length():
        yield
