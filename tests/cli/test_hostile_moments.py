"""Commands at bad moments: killed again and again, two at once, on a full disk, in odd places, under odd locales."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxsqueeze.model.loading import load

ROOT = Path(__file__).resolve().parents[2]
MODULE = [sys.executable, "-m", "onnxsqueeze"]
KILLS, FRESH, RUNS = 50, 6, 6


def environment(**changes: str) -> dict[str, str]:
    """Return an environment in which the package is found from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def command(source: Path, target: Path, *options: str) -> list[str]:
    """Return a command that overwrites a file."""
    return [*MODULE, "minimize", str(source), "-o", str(target), "--quiet", "--no-verify", *options]


WARM = """
import os, signal, sys, time
from onnxsqueeze.__main__ import main

def forked(seconds):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        main()
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

try:
    main()
except SystemExit as end:
    assert not end.code
began = time.monotonic()
forked(0)
print(time.monotonic() - began, flush=True)
for line in sys.stdin:
    forked(float(line))
    print("ended", flush=True)
"""
"""Runs the command, which imports what it needs, then in a fork for each line, which says in how many seconds it is
killed. Most of a run is imports, which touch no file of the user's: these kills come where files are written."""


def test_fifty_kills_while_overwriting_lose_nothing(pruned: Path, tmp_path: Path) -> None:
    """At moments all over a run, from the imports to the exit: the old file or the new one is there, and whole."""
    (folder := tmp_path / "out").mkdir()
    target = folder / "out.onnx"
    old, moments, seen = pruned.read_bytes(), random.Random(0), set()
    warm = subprocess.Popen(
        [sys.executable, "-c", WARM, *command(pruned, target)[len(MODULE) :]],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert warm.stdin is not None and warm.stdout is not None
    length, new = float(warm.stdout.readline()), target.read_bytes()
    for turn in range(KILLS):
        target.write_bytes(old)
        if turn < FRESH:
            process = subprocess.Popen(command(pruned, target), env=environment())
            time.sleep(moments.uniform(0.1, 0.8))
            process.kill()
            process.wait()
        else:
            print(moments.uniform(0.1, 1.3) * length, file=warm.stdin, flush=True)
            assert warm.stdout.readline() == "ended\n"
        assert target.read_bytes() in (old, new)
        seen.add(target.read_bytes() == new)
        left = [entry.name for entry in folder.iterdir() if entry != target]
        assert all(name.startswith(".onnxsqueeze-") for name in left), "only what a later run sweeps"
    warm.communicate()
    assert warm.returncode == 0
    assert pruned.read_bytes() == old
    assert seen == {False, True}, "some kills came before the new file was there, and some after"


def test_runs_at_once_on_one_output_leave_one_whole_file(pruned: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "out").mkdir()
    target = folder / "out.onnx"
    processes = [subprocess.Popen(command(pruned, target), env=environment()) for _ in range(RUNS)]
    assert [process.wait() for process in processes] == [0] * RUNS
    load(target)
    assert [entry.name for entry in folder.iterdir()] == [target.name]


def test_runs_at_once_with_data_files_leave_a_whole_model(pruned: Path, tmp_path: Path) -> None:
    """Each has a data file of its own; the model that is there names one that is there and its own."""
    (folder := tmp_path / "out").mkdir()
    target = folder / "out.onnx"
    options = ("--external-data", "yes")
    processes = [subprocess.Popen(command(pruned, target, *options), env=environment()) for _ in range(RUNS)]
    assert [process.wait() for process in processes] == [0] * RUNS
    load(target)


@pytest.mark.parametrize("name", ["C", "POSIX", "C.UTF-8", "tr_TR.UTF-8", "no such locale"])
def test_locales(name: str, pruned: Path, tmp_path: Path) -> None:
    """A name that ASCII does not have, under locales that do not have it either."""
    source = tmp_path / "gr\u00f6\u00dfe \u0131I.onnx"
    source.write_bytes(pruned.read_bytes())
    variables = environment(LC_ALL=name, LANG=name, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = subprocess.run([*MODULE, "minimize", source, "--no-verify"], env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    load(source.with_name(f"{source.stem}.min.onnx"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_the_report(pruned: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with open("/dev/full", "wb") as full:
        arguments = [*MODULE, "minimize", pruned, "-o", target, "--no-verify"]
        done = subprocess.run(arguments, env=environment(), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode in (0, 1)
    assert done.stderr.count(b"\n") <= 1 and b"Traceback" not in done.stderr
    load(target)


def test_a_full_disk_under_the_output(pruned: Path, tmp_path: Path) -> None:
    """The system lets the process write 100 bytes to a file, and no more."""
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); import signal; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from onnxsqueeze.__main__ import main; main()"
    )
    arguments = [sys.executable, "-B", "-c", script, *command(pruned, target)[3:]]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and "free some space" in done.stderr
    assert target.read_bytes() == b"old"
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".onnxsqueeze-")]


@pytest.mark.parametrize(
    "name", ["-o.onnx", "a\nb.onnx", " .onnx", "%s{}.onnx", "\u202e.onnx", "x" * 200 + ".onnx", "\udcff.onnx"]
)
def test_odd_names(name: str, pruned: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "odd").mkdir()
    source = folder / name
    source.write_bytes(pruned.read_bytes())
    done = subprocess.run([*MODULE, "minimize", "--no-verify", "--", source], env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr
    load(source.with_name(f"{source.stem}.min.onnx"))


def test_a_clock_that_was_set_back_and_one_far_ahead(pruned: Path, tmp_path: Path) -> None:
    """Files from the future and from the beginning of time are read and replaced like any other."""
    target = tmp_path / "out.onnx"
    for moment in (0, 2**33):
        target.write_bytes(b"old")
        for path in (pruned, target):
            os.utime(path, (moment, moment))
        subprocess.run(command(pruned, target), env=environment(), check=True)
        load(target)
