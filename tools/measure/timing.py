"""Fair timing: calls in turn, child processes with their own peak memory, ratios with an interval."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxsqueeze.runtimes.interleaving import interleaved_times

# A child inherits the peak memory of the process that starts it, so a bare interpreter stands in between.
_USAGE_OF_CHILD = """
import json, os, sys, time
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                       file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, code]))
"""


@dataclass(frozen=True)
class Usage:
    """What a child process took: wall and processor seconds, and its largest resident set in bytes."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Ratio:
    """The median ratio of two interleaved timings, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


def run_child(command: Sequence[str], folder: Path, bytecode: Path) -> Usage:
    """Run a command to its end, its standard output thrown away.

    Args:
        command: program and arguments.
        folder: where it runs.
        bytecode: where Python keeps what it compiled: from the second run on, a working tree starts as fast as what
            was installed.

    Raises:
        RuntimeError: if it does not exit with 0.
    """
    guard = [sys.executable, "-I", "-S", "-c", _USAGE_OF_CHILD, *command]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    done = subprocess.run(guard, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    *numbers, code = json.loads(done.stdout) if done.returncode == 0 else [done.returncode]
    if code != 0:
        raise RuntimeError(f"`{' '.join(command)}` exited with {code}: {done.stderr.strip()[-2000:]}")
    return Usage(*numbers)


def relative_times(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median milliseconds of the first call, and the median ratio of every other to it."""
    times = interleaved_times(runs, rounds)
    ratios = np.median(times / times[:, :1], axis=0)[1:]
    return [float(np.median(times[:, 0]) * 1e3), *map(float, ratios)]


def ratio(times: np.ndarray, reference: np.ndarray) -> Ratio:
    """Compare two interleaved timings, float64[rounds] each, round by round."""
    ratios = times / reference
    chosen = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[chosen], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def vector_width() -> str:
    """Name the widest float32 vectors of this processor, from /proc/cpuinfo where there is one."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "vector width unknown"
    for flag, name in (("avx512f", "AVX-512, 16 floats"), ("avx2", "AVX2, 8 floats"), ("asimd", "NEON, 4 floats")):
        if f" {flag}" in flags:
            return name
    return "vector width unknown"


def write_ratios(
    title: str, keys: Sequence[str], forms: Sequence[str], rows: Iterable[Sequence[float]], path: Path | None
) -> None:
    """Print a table of ratios, and write it as JSON too if a path is given.

    Args:
        title: what stands above the table.
        keys: names of the columns that say what was timed. forms: what was timed beside the reference.
        rows: for each case the values of the keys, the milliseconds of the reference, and the ratios of the forms.
        path: the JSON file to write, or None.
    """
    console = Console(width=110)
    console.print(title)
    table = Table(*keys, "wide ms", *forms)
    numbers = []
    for row in rows:
        numbers.append(dict(zip((*keys, "milliseconds", *forms), row, strict=True)))
        texts = [f"{value:g}" for value in row[: len(keys)]]
        table.add_row(*texts, *(f"{value:.3f}" for value in row[len(keys) :]))
    console.print(table)
    if path:
        path.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
