"""The other process of a call: it reads what to do, does it, and tells the steps and the result."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from typing import IO, Any


def main() -> None:
    """Do what standard input says, tell it on standard output, and end."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what native code prints is no event
    requests = sys.stdin.buffer
    try:
        function, arguments, named, listens = pickle.load(requests)
    except EOFError:  # whoever asked is gone
        os._exit(1)
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    if listens:
        named["progress"] = lambda step, fraction: _tell(own, "step", (step, fraction))
    try:
        _tell(own, "returned", function(*arguments, **named))
    except Exception as error:
        _tell(own, "raised", (_portable(error), traceback.format_exc()))
    os._exit(0)  # no destructor of native code runs: all that matters has been told


def _end_with(requests: IO[bytes]) -> None:
    """End when the other side closes the pipe, as it does when it is killed."""
    requests.read()
    os._exit(1)


def _tell(file: IO[bytes], kind: str, content: Any) -> None:
    file.write(pickle.dumps((kind, content), protocol=5))
    file.flush()


def _portable(error: Exception) -> Exception:
    """Return an error that can be handed over: itself, or one that says the same."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass  # it holds what only lives here, or asks for arguments that it does not keep
    return RuntimeError(f"{type(error).__name__}: {error}")
