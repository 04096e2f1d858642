"""The environment of all tests.

One thread for each worker: several that take turns on one processor wait for each other most of the time. And an error
in a rule is an error: a run would otherwise leave the node as it is, and go on. And verification stays in the
tests' own process, which spares thousands of starts and lets tests put things in the place of others; not so in
tests/processes.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from functools import cache

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ONNXSQUEEZE_STRICT", "1")

os.environ.setdefault("ONNXSQUEEZE_IN_PROCESS", "1")

pytest_plugins = ["tests.support.planted.opsets"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while thousands of tests are collected, which are none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Let torch's newer exporter read the definitions of its operators once, and not for each of hundreds of exports.

    That is a third of what a small network's export takes. Where other versions call it differently, it stays.
    """
    if "torch" not in sys.modules:
        return
    with suppress(ImportError, AttributeError):
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
        read = cache(ONNXRegistry.from_torchlib)

        def copied(**options: int) -> ONNXRegistry:
            """Return a registry of its own, to which an export may add operators."""
            found = copy(read(**options))
            found.functions = {name: list(known) for name, known in found.functions.items()}
            return found

        ONNXRegistry.from_torchlib = staticmethod(copied)


@pytest.fixture
def any_length() -> Iterator[None]:
    """See `files_of_any_length`."""
    from tests.support.planted.checks import files_of_any_length

    with files_of_any_length():
        yield
