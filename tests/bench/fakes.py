"""Runtimes that behave, and runtimes that do not, to be found by the processes that measure them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxsqueeze.runtimes import RUNTIMES, Conversion, NotInstalledError, Runtime, RuntimeSession, UnsupportedModelError

ORT = RUNTIMES["onnxruntime"]
MARKER = "ONNXSQUEEZE_TEST_MARKER"
"""The environment variable that names the file in which a hanging runtime writes the numbers of its processes."""

Arrays = Mapping[str, Any]
Files = tuple[Path, ...]


class Session:
    """Another session, to be changed."""

    def __init__(self, files: Files, threads: int) -> None:
        self.session = ORT.load(files, threads)

    def run(self, inputs: Arrays) -> dict[str, Any]:
        return self.session.run(inputs)


def fake(name: str, **changes: Any) -> Runtime:
    """Return onnxruntime under another name, with changes."""
    return replace(ORT, name=name, title=name.title(), install=f"pip install {name}", **changes)


HONEST = fake("honest")


class Doubling(Session):
    """Computes something else."""

    def run(self, inputs: Arrays) -> dict[str, Any]:
        return {name: 2 * array for name, array in super().run(inputs).items()}


WRONG = fake("wrong", load=Doubling)


class Forgetful(Session):
    """Lacks the outputs."""

    def run(self, inputs: Arrays) -> dict[str, Any]:
        super().run(inputs)
        return {}


FORGETFUL = fake("forgetful", load=Forgetful)


def absent() -> str:
    """Be not installed."""
    raise NotInstalledError("libabsent.so is missing")


ABSENT = fake("absent", version=absent)


def raising(files: Files, threads: int) -> RuntimeSession:
    """Fail in a way that no adapter foresees."""
    raise KeyError("no such\n operator")


RAISING = fake("raising", load=raising)


def leaving(files: Files, threads: int) -> RuntimeSession:
    """End the process."""
    print("a bad day\nfor libleaving", file=sys.stderr, flush=True)
    os._exit(3)


LEAVING = fake("leaving", load=leaving)


def fading(files: Files, threads: int) -> RuntimeSession:
    """End the process as if all had been done."""
    os._exit(0)


FADING = fake("fading", load=fading)


def crashing(conversion: Conversion) -> Files:
    """Crash, as a library in C does."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


CRASHING = fake("crashing", convert=crashing)


def picky(conversion: Conversion) -> Files:
    """Take no model called ``small.onnx``."""
    if conversion.model.name == "small.onnx":
        raise UnsupportedModelError("it is too small")
    return ORT.convert(conversion)


PICKY = fake("picky", convert=picky)


def hanging(conversion: Conversion) -> Files:
    """Wait forever, as does a process that is started."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    marker = Path(os.environ[MARKER])
    marker.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}", encoding="ascii")
    marker.with_suffix(".part").rename(marker)
    time.sleep(600)
    return ()


HANGING = fake("hanging", convert=hanging)


class Mortal(Session):
    """Ends the process at its 60th run, so slow that each one is a round."""

    runs = 0

    def run(self, inputs: Arrays) -> dict[str, Any]:
        Mortal.runs += 1
        if Mortal.runs == 60:
            os._exit(9)
        time.sleep(0.012)
        return super().run(inputs)


MORTAL = fake("mortal", load=Mortal)


def talking(files: Files, threads: int) -> RuntimeSession:
    """Print where events are told."""
    print('{"files": []}', flush=True)
    os.write(1, b"not even JSON\n")
    return ORT.load(files, threads)


TALKING = fake("talking", load=talking)


class Elsewhere(Session):
    """Says that it computes in another process, where each run takes a quarter of a second."""

    def times(self, inputs: Arrays, repeats: int) -> list[float]:
        return [0.25] * repeats

    def peak_bytes(self) -> int:
        return 12_000_000


ELSEWHERE = fake("elsewhere", load=Elsewhere)


def counting(files: Files, threads: int) -> RuntimeSession:
    """Say on how many logical processors it may run."""
    raise UnsupportedModelError(f"{len(os.sched_getaffinity(0))} processors")


COUNTING = fake("counting", load=counting)
HELPED = fake("helped", load=counting, helpers=1)


def measuring(conversion: Conversion) -> Files:
    """Say for which shapes it is to convert."""
    raise UnsupportedModelError(f"shapes {dict(conversion.shapes)}")


ONE_SHAPE = fake("one-shape", convert=measuring, one_shape=True)
ANY_SHAPE = fake("any-shape", convert=measuring)
