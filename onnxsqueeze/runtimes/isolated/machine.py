"""The machine that was measured on, in words and numbers."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MODEL = re.compile(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", re.MULTILINE)
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        processor: its name, and the widest vectors that it computes with where that is known.
        cores: logical processors that this process may use.
        memory_bytes: what is built in; None where it cannot be told.
        system: the operating system.
        python: the version of Python.
    """

    processor: str
    cores: int
    memory_bytes: int | None
    system: str
    python: str


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    return Machine(
        processor=_processor(),
        cores=len(usable_cores()),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def usable_cores() -> list[int]:
    """Return the numbers of the logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_for(threads: int) -> Sequence[int]:
    """Choose logical processors to pin threads to: rather of different cores, rather not the first.

    The first one serves most interrupts, and two logical processors of one core share what it computes with.
    """
    last_first = usable_cores()[::-1]
    by_core: dict[str, list[int]] = {}
    for number in last_first:
        by_core.setdefault(_siblings(number), []).append(number)
    places = {number: place for group in by_core.values() for place, number in enumerate(group)}
    return sorted(last_first, key=places.__getitem__)[:threads]


def _siblings(number: int) -> str:
    try:
        return Path(_SIBLINGS.format(number)).read_text(encoding="ascii")
    except OSError:
        return str(number)


def _processor() -> str:
    try:
        text = _CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    named = _MODEL.search(text)
    name = " ".join(named[1].split()) if named else platform.machine()
    vectors = next((title for flag, title in _VECTORS.items() if f" {flag}" in text), "")
    return f"{name}, {vectors}" if vectors else name


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
