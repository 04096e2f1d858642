"""Call a function in a process of its own: what it returns and raises comes back, and so does the word that it died.

The process is a fresh Python (`subprocess`, not `fork`): it has no threads, locks or handlers of this one, works alike
on all systems, and never imports the caller's script, which then needs no ``if __name__ == "__main__"``. Nothing
outlives the call: the process is killed on every way out of it, and ends by itself when its input closes, as it does if
this one is killed.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from onnxsqueeze.processes.handing_over import dump

IN_PROCESS = "ONNXSQUEEZE_IN_PROCESS"
"""The environment variable that keeps all work in this process, for debuggers and test suites."""

Tell = Callable[[str, float], None]
"""Is told what is being done, and which fraction of the whole lies behind."""

_STARTUP = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from onnxsqueeze.processes.worker import main; main()"
)  # the search path of this process, and nothing of the folder that the user stands in
_LONGEST_REASON = 300  # characters


class CrashedError(Exception):
    """The process died; the message says of what, such as SIGSEGV.

    Attributes:
        step: what it was doing.
    """

    def __init__(self, how: str, step: str) -> None:
        super().__init__(how, step)
        self.step = step

    def __str__(self) -> str:
        return str(self.args[0])


class NotPortableError(Exception):
    """An argument cannot be handed over to another process."""


class ElsewhereError(Exception):
    """Carries the traceback of an error that was raised in the other process."""


def apart_wanted() -> bool:
    """Whether processes of their own are wanted and possible."""
    return os.environ.get(IN_PROCESS, "0") in ("", "0") and bool(sys.executable)


def call_apart(function: Callable[..., Any], *arguments: Any, tell: Tell | None = None, **named: Any) -> Any:
    """Call a function in a process of its own and return what it returns.

    Args:
        function: is found by its module's name; with ``tell`` it gets a ``progress`` to be called with each step.
        arguments, named: are pickled, but arrays that are mapped from a file, which are mapped from it again.
        tell: is told of each step.

    Raises:
        CrashedError: when the process died.
        NotPortableError: when an argument cannot be handed over.
        Exception: what the function raises; one that cannot be handed over as a RuntimeError that says the same.
        OSError: when no process can be started.
    """
    step = "starting"
    with _process() as (process, errors):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            dump((function, arguments, named, tell is not None), process.stdin)
            process.stdin.flush()  # and stays open: its end is how the other process learns that this one is gone
        except BrokenPipeError:  # it has died, which its exit code tells
            pass
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise NotPortableError(str(error)) from None
        for kind, content in _events(process.stdout):
            if kind == "step":
                step = content[0]
                if tell is not None:
                    tell(*content)
            elif kind == "returned":
                return content
            else:
                raised, trace = content
                raise raised from ElsewhereError(trace)
        raise CrashedError(how_ended(process.wait(), errors), step)


def how_ended(code: int, errors: IO[bytes]) -> str:
    """Say how a process came to its end, from its exit code and what it wrote to its standard error."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"{name}: mostly for want of memory" if name == "SIGKILL" else name
    errors.seek(0)
    said = errors.read().decode("utf-8", "replace").splitlines()
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return f"code {code}: {last}"[:_LONGEST_REASON].rstrip(": ")


@contextmanager
def _process() -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start a process, and give it and what it writes to its standard error; no temporary file of it stays behind."""
    with (
        tempfile.TemporaryDirectory(prefix="onnxsqueeze-") as folder,
        open(Path(folder) / "errors", "w+b") as errors,
        _ended(_started(folder, errors)) as process,
    ):
        yield process, errors


def _started(folder: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _STARTUP, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)},
        start_new_session=True,  # so that Ctrl-C reaches this process alone, which then ends that one
    )


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was still to be flushed into a closed pipe
                    stream.close()


def _events(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield what is told until the stream ends, maybe within a message."""
    while True:
        try:
            event = pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):
            return
        yield event
