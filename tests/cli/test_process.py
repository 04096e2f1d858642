"""The command as a process of its own: pipes, terminals, signals, the progress bar."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest

from onnxsqueeze.cli import progress as steps
from tests.support.perceptrons import perceptron, saved, weights

MODULE = [sys.executable, "-m", "onnxsqueeze"]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without the variables that decide about colours, and with changes."""
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE")
    return {name: value for name, value in os.environ.items() if name not in dropped} | changes


def on_terminal(arguments: list[object], **changes: str) -> str:
    """Return what a run prints on a terminal."""
    own, its = pty.openpty()
    variables = environment(TERM="xterm-256color", **changes)
    with subprocess.Popen(arguments, stdout=its, stderr=its, env=variables) as process:
        os.close(its)
        printed = b""
        while True:
            try:
                part = os.read(own, 4096)
            except OSError:  # how Linux says that the other side has closed
                break
            if not part:
                break
            printed += part
    os.close(own)
    assert process.returncode == 0
    return printed.decode()


COLOUR = re.compile(r"\x1b\[[\d;]*(3[0-7]|38;|9[0-7])[\d;]*m")


def test_a_pipe_gets_plain_text_with_whole_names(tmp_path: Path) -> None:
    name = "block/" * 60
    path = saved(perceptron(*weights(), node=name), tmp_path / "long.onnx")
    result = subprocess.run([*MODULE, "inspect", path], capture_output=True, env=environment(COLUMNS="40"), check=True)
    assert name in result.stdout.decode()
    assert b"\x1b" not in result.stdout
    assert result.stderr == b""


def test_colours_on_a_terminal_unless_unwanted(pruned: Path) -> None:
    command = [*MODULE, "minimize", pruned, "--no-verify"]
    assert COLOUR.search(on_terminal(command))
    assert not COLOUR.search(on_terminal(command, NO_COLOR="1"))


def test_what_a_narrow_encoding_cannot_show_is_escaped(tmp_path: Path) -> None:
    path = saved(perceptron(*weights(), node="größe"), tmp_path / "net.onnx")
    result = subprocess.run(
        [*MODULE, "inspect", path], capture_output=True, env=environment(PYTHONIOENCODING="ascii"), check=True
    )
    assert rb"gr\xf6\xdfe" in result.stdout
    assert result.stdout.isascii()


WAITING = (
    "import sys, time\n"
    "from onnxsqueeze.model import saving\n"
    "from onnxsqueeze.cli.main import main\n"
    "def wait(file, initializer):\n"
    "    file.write(b'half'); print('waiting', flush=True); time.sleep(60)\n"
    "saving._write_raw = wait\n"
    "main(sys.argv[1:])\n"
)
"""The command, which waits when it has written a part of the model."""


def waiting(pruned: Path) -> subprocess.Popen[str]:
    """Start a run that waits in the middle of its output."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "minimize", pruned],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process


def test_ctrl_c_leaves_nothing_behind(pruned: Path) -> None:
    process = waiting(pruned)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "onnxsqueeze: error: interrupted; nothing is left half written\n"
    assert stdout == ""
    assert [path.name for path in pruned.parent.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_nothing_behind(pruned: Path, name: str) -> None:
    process = waiting(pruned)
    number = signal.Signals[name]
    process.send_signal(number)
    process.send_signal(number)  # impatience interrupts no cleaning up
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stderr == f"onnxsqueeze: error: ended by {name}; interrupted; nothing is left half written\n"
    assert stdout == ""
    assert [path.name for path in pruned.parent.iterdir()] == ["net.onnx"]


def test_nohup_is_respected(pruned: Path) -> None:
    script = WAITING.replace("time.sleep(60)", "time.sleep(1)").replace("file.write(b'half'); ", "")
    process = subprocess.Popen(
        [sys.executable, "-c", script, "inspect", pruned],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        stdout=subprocess.PIPE,
    )
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_during_the_imports_is_one_line(name: str) -> None:
    """At a dozen moments from the first import on."""
    script = (
        "import sys, os, signal, threading, time\n"
        "from onnxsqueeze.__main__ import main\n"
        "def send():\n"
        "    time.sleep(float(sys.argv.pop()))\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "threading.Thread(target=send, daemon=True).start()\n"
        "time.sleep(0.001)\n"
        "from onnxsqueeze.cli import signals\n"
        "main()\n"
    )
    number = signal.Signals[name]
    for moment in range(12):
        arguments = [sys.executable, "-c", script, "minimize", "nowhere.onnx", str(0.05 + 0.02 * moment)]
        process = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=restored)
        if process.returncode == 128 + number:
            assert process.stderr.count("\n") == 1
            assert process.stderr.startswith("onnxsqueeze: error: ")
        else:  # it was over before
            assert process.returncode == 3


def restored() -> None:
    """Let a process take Ctrl-C: the tests may run where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("option", [[], ["--json", "-"]])
def test_a_reader_that_went_away_is_no_reason_to_complain(pruned: Path, option: list[str]) -> None:
    process = subprocess.Popen([*MODULE, "inspect", pruned, *option], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full")
def test_a_full_disk_behind_stdout(pruned: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run([*MODULE, "inspect", pruned], stdout=full, stderr=subprocess.PIPE)
    assert result.stderr == b"onnxsqueeze: error: stdout cannot be written: No space left on device\n"
    assert result.returncode == 1


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Whether it is one."""
        return True


def test_long_work_shows_a_progress_bar_which_then_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(steps, "_PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with steps.ProgressBar(quiet=False) as progress:
        progress("running the original", 0.25)
        deadline = time.monotonic() + 30
        while "running the original" not in terminal.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        progress("writing")
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")  # erases the line


@pytest.mark.parametrize(("quiet", "stream"), [(True, Terminal()), (False, StringIO())])
def test_no_progress_bar_where_it_is_unwanted(monkeypatch: pytest.MonkeyPatch, quiet: bool, stream: StringIO) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(steps, "_PATIENCE", 0.0)
    with steps.ProgressBar(quiet) as progress:
        progress("loading")
        time.sleep(0.2)  # far longer than a bar without patience needs
    assert stream.getvalue() == ""
