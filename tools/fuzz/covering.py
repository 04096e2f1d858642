"""Which tests reach which lines of some files, and running some of them in a process of their own."""

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
LOG = "log.txt"
_SPARE = 60  # seconds of CPU time beyond what the tests took


def apart(function: Callable[..., Any], *arguments: Any, seconds: int = 0) -> Any:
    """Call a function of a folder and others in a fork of this process; what it prints goes to LOG in that folder.

    Return None if the process dies, of too much CPU time maybe.
    """
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
    log = os.open(arguments[0] / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
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


def reached(folder: Path, files: Sequence[Path], tests: Sequence[str]) -> dict[Path, Reached] | None:
    """Run tests once and return what they reach of each file; None if one fails."""
    found: dict[Path, Reached] | None = apart(_reached, folder, files, tests)
    return found


def _reached(folder: Path, files: Sequence[Path], tests: Sequence[str]) -> dict[Path, Reached] | None:
    _stand_in(folder)
    paths = {str(folder / file): file for file in files}
    watch = _Watch(frozenset(paths))
    if pytest.main([*_ALWAYS, *tests], [watch]) not in _PASSED:
        return None
    return {
        file: Reached(watch.seconds, {test: lines.get(path, set()) for test, lines in watch.lines.items()})
        for path, file in paths.items()
    }


class _Watch:
    """A plugin of pytest that notes the lines of some files while each test runs."""

    def __init__(self, files: frozenset[str]) -> None:
        self._files = files
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[str, set[int]]] = {}
        self._now: dict[str, set[int]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now = self.lines[item.nodeid] = defaultdict(set)
        before = os.times()
        sys.settrace(self._called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            after = os.times()
            self.seconds[item.nodeid] = after.user + after.system - before.user - before.system

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._ran if frame.f_code.co_filename in self._files else None

    def _ran(self, frame: FrameType, event: str, _: Any) -> Any:
        self._now[frame.f_code.co_filename].add(frame.f_lineno)
        return self._ran
