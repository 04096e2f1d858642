"""How long each phase of a run took."""

from __future__ import annotations

import time


class Clock:
    """Starts when it is made.

    Attributes:
        laps: seconds of each phase so far, by name.
    """

    def __init__(self) -> None:
        """Start."""
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add what has passed since the last phase ended to a phase."""
        now = time.perf_counter()
        self.laps[phase] = self.laps.get(phase, 0.0) + now - self._last
        self._last = now
