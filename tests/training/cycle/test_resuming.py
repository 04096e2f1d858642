"""A run that is interrupted, at any moment and by any means, ends as one that is not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.training.cycle.loops import complete, started


class Interrupted(BaseException):
    """Stands for the end of a process: nothing catches it but what cleans up."""


def outcome(workdir: Path) -> dict[str, Any]:
    """Return all that a run leaves, without durations: models byte by byte, and the data of each JSON file."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.suffix == ".json":
            found[name] = without_seconds(json.loads(path.read_bytes()))
        elif path.suffix == ".onnx":
            found[name] = path.read_bytes()
        elif path.is_file():
            found[name] = None
    return found


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(entry) for key, entry in value.items() if key != "seconds"}
    return [without_seconds(entry) for entry in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    workdir = tmp_path_factory.mktemp("undisturbed")
    complete(workdir, teacher=True)
    found = outcome(workdir)
    assert "cycle-02/masked.onnx" in found
    assert json.loads((workdir / "cycle-02" / "metrics.json").read_bytes())["released"] > 0, "all stages are passed"
    return found


def test_interrupted_before_and_after_files(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt gets a few files further, and ends just before or just after a file takes its place."""
    replaced, chance = os.replace, random.Random(3)
    left, after = 0, False

    def replace(source: Any, target: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0 and not after:
            raise Interrupted
        replaced(source, target)
        if left < 0:
            raise Interrupted

    monkeypatch.setattr(os, "replace", replace)
    attempts, finished = 0, False
    while not finished:
        left, after = chance.randrange(12), chance.random() < 0.5
        attempts += 1
        assert attempts < 100
        with suppress(Interrupted):
            complete(tmp_path, teacher=True)
            finished = True
    assert attempts > 8
    assert outcome(tmp_path) == undisturbed


def test_killed_at_random_moments(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([complete.__module__])
    moments = random.Random(5)
    killed = 0
    for _ in range(40):
        process = context.Process(target=complete, args=(tmp_path,), kwargs={"teacher": True})
        process.start()
        process.join(moments.uniform(0.1, 0.6) if killed < 3 else 120)
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        killed += 1
    assert killed >= 2
    assert outcome(tmp_path) == undisturbed


def test_a_finished_run_can_go_further(tmp_path: Path) -> None:
    first = started(tmp_path).run(cycles=1, max_drop=1.0)
    assert [point.cycle for point in first.front] == [0, 1]
    assert started(tmp_path).run() == first, "nothing is left to do"
    further = started(tmp_path).run(cycles=2)
    assert [point.cycle for point in further.front] == [0, 1, 2]
    assert (further.front[1].elements, further.front[1].metric) == (first.front[1].elements, first.front[1].metric)
