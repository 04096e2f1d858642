"""Run a test's body in a process of its own.

A process group and DistributedDataParallel in the process of other tests can wait for each other forever when both are
taken down; a process that just ends takes nothing down.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

_SECONDS = 180


def run_apart(body: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a module in a fresh process, and assert that it raises nothing."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(body, *arguments))
    process.start()
    process.join(_SECONDS)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0, f"{body.__name__} failed or took over {_SECONDS} s; its traceback is on stderr"


def _run(body: Callable[..., None], *arguments: Any) -> None:
    try:
        body(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
