"""Measure models side by side in the runtimes that people ship."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxsqueeze.bench.benchmark import Benchmark, bench
    from onnxsqueeze.bench.report import BenchReport
    from onnxsqueeze.bench.settings import Settings

__all__ = ["BenchReport", "Benchmark", "Settings", "bench"]

_HOMES = {"BenchReport": "report", "Benchmark": "benchmark", "Settings": "settings", "bench": "benchmark"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the processes that are measured need none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
