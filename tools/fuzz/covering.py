"""Which tests reach which statements of some files, and running those of a broken one, in a process of its own.

Loading the package and the tests costs more than most tests do. So a process loads them once and forks for each mutant;
there functions get the code of the changed file. What runs while the package loads is loaded as a whole.
"""

from __future__ import annotations

import ast
import builtins
import gc
import os
import resource
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from inspect import CO_NEWLOCALS
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import hypothesis
import hypothesis.internal.conjecture.engine  # noqa: F401  (what every child would import is imported once)
import numpy  # noqa: F401
import onnx.checker  # noqa: F401
import onnx.reference  # noqa: F401
import onnxruntime  # noqa: F401
import pytest

from tools.fuzz.breaking import Mutant

_FORKING = get_context("fork")
_ALWAYS = ("-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly")
_PASSED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
LOG = "log.txt"
_SPARE = 60  # seconds of CPU time beyond what the tests took
_FIXED = "fixed"
_MARK = "__reached__"


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


def _stand_in(folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True


class Reached:
    """What the tests of a file reach.

    Attributes:
        seconds: CPU time of each test, by its name. lines: the first lines of the statements that it runs.
        loading: those that run before any test does.
    """

    def __init__(self, seconds: dict[str, float], lines: dict[str, set[int]], loading: set[int]) -> None:
        """Hold what one run showed."""
        self.seconds, self.lines, self.loading = seconds, lines, loading

    def tests_of(self, line: int, most: float) -> list[str]:
        """Return tests that run a statement, in so many seconds at most; where none does, those that run any.

        One of each function comes first, then the quickest, since the first test to fail ends a run.
        """
        found = [test for test, lines in self.lines.items() if line in lines] or self.all()
        turns: dict[str, int] = defaultdict(int)
        order: dict[str, tuple[int, float]] = {}
        for test in sorted(found, key=lambda test: self.seconds[test]):
            function = test.partition("[")[0]
            order[test] = (turns[function], self.seconds[test])
            turns[function] += 1
        chosen: list[str] = []
        for test in sorted(found, key=order.__getitem__):
            if not chosen or self.taking([*chosen, test]) <= most:
                chosen.append(test)
        return chosen

    def all(self) -> list[str]:
        """Return the tests that run any statement."""
        return [test for test, some in self.lines.items() if some]

    def taking(self, tests: Sequence[str]) -> float:
        """Return the CPU time that tests took."""
        return sum(self.seconds[test] for test in tests)


def unnoticed(folder: Path, file: Path, broken: Sequence[Mutant], known: Reached, most: float) -> Iterator[Mutant]:
    """Yield the mutants of a file of the package in a folder that no test notices."""
    jobs = [(mutant, known.tests_of(mutant.statement, most)) for mutant in broken]
    if not known.all():  # without names, pytest would run all tests that there are
        yield from broken
        return
    running = [(mutant, tests) for mutant, tests in jobs if mutant.statement not in (0, *known.loading)]
    source = (folder / file).read_text(encoding="utf-8")
    survived, others = apart(_swapping, folder, file, running, known)
    yield from survived
    for mutant, tests in (job for job in jobs if job not in running or job[0] in others):
        (folder / file).write_text(mutant.source, encoding="utf-8")
        if apart(_passes, folder, tests, seconds=_limit(known, tests)) is True:
            yield mutant
    (folder / file).write_text(source, encoding="utf-8")


def _limit(known: Reached, tests: Sequence[str]) -> int:
    return int(2 * known.taking(tests) + _SPARE)


def _swapping(
    folder: Path, file: Path, jobs: Sequence[tuple[Mutant, list[str]]], known: Reached
) -> tuple[list[Mutant], list[Mutant]]:
    """Return mutants whose tests pass with functions of a loaded package exchanged, and those where that cannot be."""
    _stand_in(folder)
    if files := sorted({test.partition("::")[0] for _, tests in jobs for test in tests}):
        pytest.main([*_ALWAYS, "--collect-only", *files])
    import_module(".".join(file.with_suffix("").parts))  # tests may import it only while they run
    path = str(folder / file)
    found = [
        (mutant, apart(_passes_swapped, folder, path, mutant.source, tests, seconds=_limit(known, tests)))
        for mutant, tests in jobs
    ]
    return [mutant for mutant, passed in found if passed is True], [each for each, passed in found if passed == _FIXED]


def _passes_swapped(folder: Path, path: str, source: str, tests: Sequence[str]) -> bool | str:
    """Whether tests pass with the functions of a changed source; _FIXED where one captures other names than before."""
    Path(path).write_text(source, encoding="utf-8")  # for tests that read it
    changed = dict(_functions(compile(source, path, "exec")))
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and each.__code__.co_filename == path and each.__qualname__ in changed:
            if each.__code__.co_freevars != changed[each.__qualname__].co_freevars:
                return _FIXED
            each.__code__ = changed[each.__qualname__]
    return pytest.main([*_ALWAYS, *tests]) in _PASSED


def _functions(code: CodeType, prefix: str = "") -> Iterator[tuple[str, CodeType]]:
    """Yield the code of the functions of a module, methods and inner ones too, by their qualified names."""
    for each in code.co_consts:
        if isinstance(each, CodeType) and not each.co_name.startswith("<"):
            yield prefix + each.co_name, each
            inner = ".<locals>." if each.co_flags & CO_NEWLOCALS else "."  # else it is a class
            yield from _functions(each, prefix + each.co_name + inner)


def _passes(folder: Path, tests: Sequence[str]) -> bool:
    _stand_in(folder)
    return pytest.main([*_ALWAYS, *tests]) in _PASSED


def reached(folder: Path, files: Sequence[Path], tests: Sequence[str]) -> dict[Path, Reached] | None:
    """Run tests once and return what they reach of each file; None if one fails."""
    sources = {file: (folder / file).read_text(encoding="utf-8") for file in files}
    for number, (file, source) in enumerate(sources.items()):
        (folder / file).write_text(_marked(source, number), encoding="utf-8")
    found: dict[Path, Reached] | None = apart(_reached, folder, files, tests)
    for file, source in sources.items():
        (folder / file).write_text(source, encoding="utf-8")
    return found


def _marked(source: str, number: int) -> str:
    """Return a program each statement of whose functions says that it runs."""
    tree = ast.parse(source)
    for node in [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)]:
        for inner in [each for each in ast.walk(node) if isinstance(each, (ast.stmt, ast.ExceptHandler))]:
            for field in ("body", "orelse", "finalbody"):
                if isinstance(block := getattr(inner, field, None), list) and not _is_marked(block):
                    setattr(inner, field, [part for each in block for part in (_mark(number, each.lineno), each)])
    return ast.unparse(ast.fix_missing_locations(tree))


def _mark(number: int, line: int) -> ast.stmt:
    return ast.parse(f"{_MARK}({number}, {line})").body[0]


def _is_marked(block: list[ast.stmt]) -> bool:
    return not block or ast.unparse(block[0]).startswith(_MARK)


def _reached(folder: Path, files: Sequence[Path], tests: Sequence[str]) -> dict[Path, Reached] | None:
    _stand_in(folder)
    watch = _Watch()
    if pytest.main([*_ALWAYS, *tests], [watch]) not in _PASSED:
        return None
    return {
        file: Reached(
            watch.seconds,
            {test: lines.get(number, set()) for test, lines in watch.lines.items()},
            watch.loading.get(number, set()),
        )
        for number, file in enumerate(files)
    }


class _Watch:
    """A plugin of pytest that notes the marked statements that run during each test, and while the tests are loaded."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[int]]] = {}
        self.loading: dict[int, set[int]] = defaultdict(set)
        self._now = self.loading
        setattr(builtins, _MARK, self._runs)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now = self.lines[item.nodeid] = defaultdict(set)
        before = os.times()
        try:
            return (yield)
        finally:
            after = os.times()
            self.seconds[item.nodeid] = after.user + after.system - before.user - before.system

    def _runs(self, number: int, line: int) -> None:
        self._now[number].add(line)
