"""Verification in a process of its own, in the command and in scripts: its runtime really dies, or never answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import onnxsqueeze
from onnxsqueeze.errors import UsageError
from onnxsqueeze.processes.apart import IN_PROCESS
from onnxsqueeze.verification.report import VerificationError
from tests.support.perceptrons import perceptron, saved, weights

ROOT = Path(onnxsqueeze.__file__).parents[1]
_RUNTIME = """\
import os, pathlib, signal, time

class SessionOptions:
    def add_session_config_entry(self, name, value):
        pass

class GraphOptimizationLevel:
    ORT_ENABLE_ALL, ORT_DISABLE_ALL = 1, 0

def InferenceSession(*arguments, **named):
    pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
    {act}
"""
_DIES = "os.kill(os.getpid(), signal.SIGSEGV)"
_HANGS = "time.sleep(600)"
_PATIENCE = 20.0  # seconds; what is waited for takes less than one


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IN_PROCESS, raising=False)


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    """Return a network with dead units."""
    units_in, units_out = weights()
    units_out[[0, 4, 6]] = 0
    return saved(perceptron(units_in, units_out), tmp_path / "net.onnx")


def runtime(folder: Path, act: str) -> Path:
    """Write something that is imported as onnxruntime, and return where the id of its process will stand."""
    package = folder / "packages" / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_RUNTIME.format(act=act))
    return package / "pid"


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which that package comes first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "packages"), str(ROOT)])}


def command(path: Path, *options: str) -> list[str]:
    """Return a command that minimizes a file."""
    return [sys.executable, "-m", "onnxsqueeze", "minimize", str(path), "-o", str(path.with_name("out.onnx")), *options]


def test_a_runtime_that_dies_is_one_line_and_exit_code_4(tmp_path: Path, pruned: Path) -> None:
    runtime(tmp_path, _DIES)
    done = subprocess.run(command(pruned), capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == VerificationError.exit_code
    assert done.stderr.count("\n") == 1
    assert "cannot verify: onnxruntime crashed (SIGSEGV) while running the original" in done.stderr
    assert "--no-verify" in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["net.onnx", "packages"]


def test_one_of_several_files_that_kills_its_runtime_does_not_stop_the_others(tmp_path: Path, pruned: Path) -> None:
    other = saved(perceptron(*weights()), tmp_path / "dense.onnx")  # nothing can go, so that nothing is verified
    runtime(tmp_path, _DIES)
    (tmp_path / "out").mkdir()
    arguments = [sys.executable, "-m", "onnxsqueeze", "minimize", pruned, other, "-o", tmp_path / "out"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == VerificationError.exit_code
    assert "crashed (SIGSEGV)" in done.stderr + done.stdout
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["dense.min.onnx"]


def test_a_script_needs_no_guard_and_meets_an_exception(tmp_path: Path, pruned: Path) -> None:
    """With the script's folder, its name and everything in it out of the way of the other process."""
    runtime(tmp_path, _DIES)
    (tmp_path / "numpy.txt").touch()
    script = tmp_path / "script.py"
    script.write_text(
        "import onnxsqueeze\nprint('begun')\n"
        f"try:\n    onnxsqueeze.minimize({str(pruned)!r})\n"
        "except onnxsqueeze.VerificationError as error:\n    print(error.report.crashed, error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment(tmp_path))
    assert done.stdout.splitlines()[0] == "begun"
    assert done.stdout.splitlines()[1].startswith("True verification failed: cannot verify: onnxruntime crashed")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_both_processes(tmp_path: Path, pruned: Path, number: int, code: int) -> None:
    pid = runtime(tmp_path, _HANGS)
    process = subprocess.Popen(command(pruned), stderr=subprocess.PIPE, text=True, env=environment(tmp_path))
    other = _id_in(pid)
    process.send_signal(number)
    _, said = process.communicate(timeout=_PATIENCE)
    assert process.returncode == code
    assert said.count("\n") == 1
    assert _gone(other)


def test_no_process_is_left_when_the_command_is_killed_outright(tmp_path: Path, pruned: Path) -> None:
    pid = runtime(tmp_path, _HANGS)
    process = subprocess.Popen(command(pruned), env=environment(tmp_path))
    other = _id_in(pid)
    process.kill()
    process.wait()
    assert _gone(other)


def test_results_are_those_of_the_same_process(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = onnxsqueeze.minimize(pruned).report.verification
    monkeypatch.setenv(IN_PROCESS, "1")
    here = onnxsqueeze.minimize(pruned).report.verification
    assert apart is not None
    assert here is not None
    assert (apart.passed, apart.sizes, apart.notes) == (here.passed, here.sizes, here.notes)
    for one, other in zip(apart.outputs, here.outputs, strict=True):  # how much float64 adds depends on the time it has
        assert (one.name, one.deviation) == (other.name, other.deviation)


def test_errors_of_the_other_process_are_those_of_this_one(pruned: Path) -> None:
    with pytest.raises(UsageError, match="no_such"):
        onnxsqueeze.verify(pruned, pruned, dims={"no_such": 3})


def _id_in(path: Path) -> int:
    deadline = time.monotonic() + _PATIENCE
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True  # it has ended, and nobody has asked for its code yet
        time.sleep(0.02)
    return False
