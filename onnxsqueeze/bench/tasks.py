"""What is done in a runtime's own processes: convert a model, load it alone, run all models in turn."""

from __future__ import annotations

import gc
import pickle
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.runtimes.base import Conversion, RemoteSession, Runtime, RuntimeSession
from onnxsqueeze.runtimes.isolated.task import Emit

Array = npt.NDArray[Any]
Inputs = Mapping[str, Any]

_VISIT_SECONDS = 0.01  # a model is run at least so long before it is the next one's turn
_MOST_REPEATS = 1000
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 1000
_WARM_UP_SECONDS = 0.2
_REMOTE_WARM_UP_SECONDS = 1.0  # WebAssembly runs slowly until what runs often was compiled a second time
_WARM_UP_RUNS, _MOST_WARM_UP_RUNS = 3, 10_000
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Convert:
    """Converts a model. Tells ``versions`` and then ``files`` and ``seconds``."""

    runtime: Runtime
    conversion: Conversion

    def perform(self, emit: Emit) -> None:
        """Do it."""
        emit(versions=self.runtime.versions())
        start = time.perf_counter()
        files = self.runtime.convert(self.conversion)
        emit(files=[str(path) for path in files], seconds=time.perf_counter() - start)


@dataclass(frozen=True)
class Load:
    """Loads one model in a fresh process and runs it.

    Tells ``load_seconds``, ``first_seconds``, ``peak_bytes`` and ``idle_bytes``, as a `Measurement` has them, and
    leaves the outputs in a file.
    """

    runtime: Runtime
    files: tuple[Path, ...]
    threads: int
    inputs: Inputs
    outputs: Path

    def perform(self, emit: Emit) -> None:
        """Do it."""
        self.runtime.version()  # which imports what it needs: that is no part of loading a model
        idle = peak_bytes()
        start = time.perf_counter()
        session = self.runtime.load(self.files, self.threads)
        loaded = time.perf_counter()
        outputs = session.run(self.inputs)
        first = time.perf_counter()
        for _ in range(_WARM_UP_RUNS):
            session.run(self.inputs)
        peak = peak_bytes()
        if isinstance(session, RemoteSession):
            idle, peak = None, session.peak_bytes()
        self.outputs.write_bytes(pickle.dumps(outputs))
        emit(load_seconds=loaded - start, first_seconds=first - loaded, peak_bytes=peak, idle_bytes=idle)


@dataclass(frozen=True)
class Rounds:
    """Runs models in turn, in a new random order each round, so that a busy moment of the machine hits all of them.

    Tells ``times`` for each round: for each model the median of its runs in that round, in seconds.
    """

    runtime: Runtime
    files: tuple[tuple[Path, ...], ...]
    threads: int
    inputs: Inputs
    seconds: float
    seed: int

    def perform(self, emit: Emit) -> None:
        """Do it."""
        random = np.random.default_rng(self.seed)
        sessions = {int(index): self._loaded(int(index)) for index in random.permutation(len(self.files))}
        repeats = {index: self._warmed_up(session) for index, session in sessions.items()}
        gc.collect()
        gc.disable()  # as timeit does: a collection in a run would be counted as a part of it
        end = time.perf_counter() + self.seconds
        for number in range(_MOST_ROUNDS):
            if number >= _FEWEST_ROUNDS and time.perf_counter() > end:
                return
            times = [0.0] * len(self.files)
            for index in random.permutation(len(self.files)):
                found = run_times(sessions[index], self.inputs, repeats[index])
                times[index] = float(np.median(found))
            emit(times=times)

    def _loaded(self, index: int) -> RuntimeSession:
        return self.runtime.load(self.files[index], self.threads)

    def _warmed_up(self, session: RuntimeSession) -> int:
        """Run until the first, slow runs are over, and return how often to run it in a round."""
        times: list[float] = []
        seconds = _REMOTE_WARM_UP_SECONDS if isinstance(session, RemoteSession) else _WARM_UP_SECONDS
        while len(times) < _WARM_UP_RUNS or (sum(times) < seconds and len(times) < _MOST_WARM_UP_RUNS):
            times.extend(run_times(session, self.inputs, 1))
        return min(max(1, round(_VISIT_SECONDS / min(times))), _MOST_REPEATS)


def run_times(session: RuntimeSession, inputs: Inputs, repeats: int) -> list[float]:
    """Run a model so often and return the seconds of each run, from arrays to arrays."""
    if isinstance(session, RemoteSession):
        return session.times(inputs, repeats)
    moments = [time.perf_counter()]
    for _ in range(repeats):
        session.run(inputs)
        moments.append(time.perf_counter())
    return [float(seconds) for seconds in np.diff(moments)]


def peak_bytes() -> int | None:
    """Return the largest resident memory of this process so far, None where the system does not tell.

    Linux tells in two places; only the one below starts anew with the program of a process, the other one goes on from
    the process that started it.
    """
    try:
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
