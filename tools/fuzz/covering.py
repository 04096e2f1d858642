"""Which tests reach which lines of a file, and running some of them in a process of their own."""

from __future__ import annotations

import os
import resource
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import hypothesis.internal.conjecture.engine  # noqa: F401  (what every child would import is imported once)
import numpy  # noqa: F401
import onnx.checker  # noqa: F401
import onnx.reference  # noqa: F401
import onnxruntime  # noqa: F401
import pytest

_FORKING = get_context("fork")
_ALWAYS = ("-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly")
_PASSED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
_SPARE = 60  # seconds of CPU time beyond what the tests took


def apart(function: Callable[..., Any], *arguments: Any, seconds: int = 0) -> Any:
    """Call a function in a fork of this process; return None if it dies, of too much CPU time maybe."""
    receiver, sender = _FORKING.Pipe(duplex=False)
    process = _FORKING.Process(target=_call, args=(sender, function, arguments, seconds))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def _call(sender: Connection, function: Callable[..., Any], arguments: Sequence[Any], seconds: int) -> None:
    if seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    hypothesis.settings.register_profile("steady", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("steady")
    sender.send(function(*arguments))


def passes(folder: Path, tests: Sequence[str], seconds: float) -> bool:
    """Whether tests pass for the package in a folder, in about the CPU time that they take."""
    return apart(_passes, folder, tests, seconds=int(2 * seconds + _SPARE)) is True


def _passes(folder: Path, tests: Sequence[str]) -> bool:
    _stand_in(folder)
    return pytest.main([*_ALWAYS, *tests]) in _PASSED


def _stand_in(folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True


class Reached:
    """What the tests of a file reach.

    Attributes:
        seconds: CPU time of each test, by its name. lines: the lines that it runs.
    """

    def __init__(self, seconds: dict[str, float], lines: dict[str, set[int]]) -> None:
        """Hold what one run showed."""
        self.seconds, self.lines = seconds, lines

    def tests_of(self, line: int) -> list[str]:
        """Return the tests that run a line; where none does, as while a module is imported, those that run any.

        One of each function comes first, then the quickest, since the first test to fail ends a run.
        """
        found = [test for test, lines in self.lines.items() if line in lines] or [
            t for t, some in self.lines.items() if some
        ]
        turns: dict[str, int] = defaultdict(int)
        order: dict[str, tuple[int, float]] = {}
        for test in sorted(found, key=lambda test: self.seconds[test]):
            function = test.partition("[")[0]
            order[test] = (turns[function], self.seconds[test])
            turns[function] += 1
        return sorted(found, key=order.__getitem__)


def reached(folder: Path, file: Path, tests: Sequence[str]) -> Reached | None:
    """Run tests once and return what they reach of a file; None if one fails."""
    found: Reached | None = apart(_reached, folder, file, tests)
    return found


def _reached(folder: Path, file: Path, tests: Sequence[str]) -> Reached | None:
    _stand_in(folder)
    watch = _Watch(str(folder / file))
    return Reached(watch.seconds, watch.lines) if pytest.main([*_ALWAYS, *tests], [watch]) in _PASSED else None


class _Watch:
    """A plugin of pytest that notes the lines of one file while each test runs."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, set[int]] = {}
        self._now: set[int] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now = self.lines[item.nodeid] = set()
        before = os.times()
        sys.settrace(self._called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            after = os.times()
            self.seconds[item.nodeid] = after.user + after.system - before.user - before.system

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._ran if frame.f_code.co_filename == self._file else None

    def _ran(self, frame: FrameType, event: str, _: Any) -> Any:
        self._now.add(frame.f_lineno)
        return self._ran
