"""A process of a runtime's own, so that one that crashes or hangs takes nothing with it.

``python -m onnxsqueeze.bench.worker FILE CORES`` performs the task that is pickled in FILE and tells events on its
standard output, one line of JSON each. It stays on the logical processors CORES, such as ``3,2``.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from typing import Any


def main(path: str, cores: str) -> None:
    """Perform the task in a file."""
    if hasattr(os, "sched_setaffinity"):  # before anything is imported that starts threads
        os.sched_setaffinity(0, map(int, cores.split(",")))
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a runtime prints is no event

    def emit(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    from onnxsqueeze.errors import one_line
    from onnxsqueeze.runtimes.base import NotInstalledError, UnsupportedModelError

    try:
        with open(path, "rb") as file:
            task = pickle.load(file)  # our own, from a folder that only we may enter
        task.perform(emit)
        emit(done=True)
    except NotInstalledError as error:
        emit(absent=one_line(error))
    except UnsupportedModelError as error:
        emit(refused=one_line(error))
    except Exception as error:  # a runtime may raise anything
        emit(refused=f"{type(error).__name__}: {one_line(error)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
