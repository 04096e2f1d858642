"""What is asked of a squeeze, checked before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxsqueeze.errors import UsageError

_LONG = 4.0  # times smaller, from which on a network is squeezed in two steps if it is trained


@dataclass(frozen=True)
class Goal:
    """How small, or how good.

    Attributes:
        ratio: how many times fewer weight elements. macs: how many times fewer multiply-accumulates. bytes: the most
            that the file may take. latency: the most that a run may take, as a share of the original's time.
        max_drop: the most that the metric may fall, in percentage points.
    """

    ratio: float | None = None
    macs: float | None = None
    bytes: int | None = None
    latency: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            UsageError: for several sizes, none at all, or numbers out of range.
        """
        if len(self.sizes) > 1:
            raise UsageError(f"{' and '.join(self.sizes)}: give one size")
        if not self.sizes and self.max_drop is None:
            raise UsageError("give a goal: --ratio, --macs, --bytes, --latency or --max-drop")
        for name in ("ratio", "macs"):
            value = getattr(self, name)
            if value is not None and not 1 < value < math.inf:
                raise UsageError(f"--{name} {value}: give how many times smaller, above 1")
        if self.bytes is not None and self.bytes < 1:
            raise UsageError(f"--bytes {self.bytes}: give at least 1")
        if self.latency is not None and not 0 < self.latency < 1:
            raise UsageError(f"--latency {self.latency}: give a share of the original's time, between 0 and 1")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise UsageError(f"--max-drop {self.max_drop}: give percentage points, from 0 to below 100")

    @property
    def sizes(self) -> list[str]:
        """The options that ask for a size."""
        names = ("ratio", "macs", "bytes", "latency")
        return [f"--{name}" for name in names if getattr(self, name) is not None]

    def stages(self) -> list[Goal]:
        """Return the goals of squeezes with a training after each: half of a long way first."""
        if self.ratio is not None and self.ratio >= _LONG:
            return [Goal(ratio=math.sqrt(self.ratio)), self]
        if self.macs is not None and self.macs >= _LONG:
            return [Goal(macs=math.sqrt(self.macs)), self]
        return [self]

    @property
    def counts_macs(self) -> bool:
        """Whether what a unit saves is counted in multiply-accumulates; else in weight elements."""
        return self.macs is not None or self.latency is not None

    def __str__(self) -> str:
        """Name the goal as the command line does."""
        names = ("ratio", "macs", "bytes", "latency", "max_drop")
        given = [(name, getattr(self, name)) for name in names if getattr(self, name) is not None]
        return ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in given)
