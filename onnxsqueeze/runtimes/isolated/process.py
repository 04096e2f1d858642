"""Start a worker, listen to it, and end it when its time is up."""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, Any

from onnxsqueeze.processes.apart import how_ended
from onnxsqueeze.runtimes.isolated.machine import cores_for
from onnxsqueeze.runtimes.isolated.task import Task

Event = dict[str, Any]

_LONGEST_REASON = 300  # characters
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class AbsentError(Exception):
    """A runtime or its converter is not installed; the message says what is missing."""


class FailedError(Exception):
    """A task failed: the runtime refused the model, crashed, or its time is up; the message says which."""


@dataclass(frozen=True)
class Limits:
    """What a process may use.

    Attributes:
        threads: how many threads compute.
        helpers: how many are busy besides; each has a logical processor of its own.
        deadline: the moment of `time.monotonic` at which the process is ended.
    """

    threads: int
    helpers: int
    deadline: float


def perform(task: Task, folder: Path, limits: Limits, hear: Callable[[Event], None]) -> None:
    """Perform a task in a process of its own.

    The process, and whatever it started, is gone when this returns, however it returns.

    Args:
        task: what to do.
        folder: an empty one, in which it runs.
        limits: what it may use.
        hear: is called with each event as it comes.

    Raises:
        AbsentError, FailedError: as they say.
    """
    file, errors = folder / "task", folder / "errors"
    file.write_bytes(pickle.dumps(task))
    cores = ",".join(map(str, cores_for(limits.threads + limits.helpers)))
    with open(errors, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "onnxsqueeze.runtimes.isolated.worker", str(file), cores],
            cwd=folder,
            env=_environment(limits.threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # so that one signal reaches converters that it starts, and Ctrl-C none of them
            encoding="utf-8",
        )
    done = False
    try:
        assert process.stdout is not None
        for event in _events(process.stdout, limits.deadline):
            if "absent" in event:
                raise AbsentError(event["absent"])
            if "refused" in event:
                raise FailedError(event["refused"][:_LONGEST_REASON])
            done = done or "done" in event
            if not done:
                hear(event)
        code = _exit_code(process, limits.deadline)
    finally:
        _end(process)
    if not done:
        raise FailedError(_crash(code, errors))


def _environment(threads: int) -> dict[str, str]:
    """Return an environment in which Python finds what it finds here."""
    paths = [os.path.abspath(path) for path in sys.path]  # "" stands for the folder of this process
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _events(stream: IO[str], deadline: float) -> Iterator[Event]:
    """Yield what is told until the stream ends. A thread reads, since not every system can wait for a pipe so long."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        with suppress(ValueError):  # once the process was ended, the stream may be closed under it
            for line in stream:
                lines.put(line)
        lines.put("")

    Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise _late() from None
        if not line.endswith("\n"):  # the end, or what a process had begun to tell when it died
            return
        yield json.loads(line)


def _exit_code(process: subprocess.Popen[str], deadline: float) -> int:
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _late() from None


def _late() -> FailedError:
    return FailedError("its time is up; allow more with --timeout")


def _end(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # where nothing is left
            os.killpg(process.pid, signal.SIGKILL)  # what it started may live on without it
    elif process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _crash(code: int, errors: Path) -> str:
    with open(errors, "rb") as file:
        how = how_ended(code, file)
    return f"it crashed: {how}" if code < 0 else f"it ended with {how}"
