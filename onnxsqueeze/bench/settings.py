"""How to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """How to measure; the attributes are options of the command.

    Attributes:
        threads: how many threads a runtime computes in.
        batch: the size of the batch; None for 1, or what the models fix.
        dims: sizes of dynamic dimensions by name.
        seconds: how long all models together are run in each runtime, conversion and loading not counted.
        timeout: seconds after which a runtime is ended, all it does counted.
        launches: over how many processes the seconds are spread. Where weights happen to lie in memory stays the same
            in a process and moves its latencies by up to a tenth, so that rounds of one process say too little.
    """

    threads: int = 1
    batch: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 3.0
    timeout: float = 120.0
    launches: int = 3
