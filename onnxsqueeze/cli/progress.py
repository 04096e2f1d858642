"""A progress bar for work that takes long."""

from __future__ import annotations

import sys
import time
from threading import Lock, Timer
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE = 1.0  # seconds of work before anything is shown
_LEAST_DONE = 0.02  # of a step, before it is said how long the rest will take


class ProgressBar:
    """Shows on stderr what is being done, once that has taken over a second, and erases it at the end.

    Call it with the name of each step as it begins, and with the fraction done where that is known. It does nothing
    where stderr is no terminal; until it has something to show, rich is not imported.
    """

    def __init__(self, quiet: bool) -> None:
        self._enabled = not quiet and sys.stderr.isatty()
        self._lock = Lock()
        self._step = self._shown = ""
        self._begun = (0.0, 0.0)  # when the step was first shown, and how much of it was done
        self._fraction: float | None = None
        self._timer: Timer | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._enabled = False
            if self._timer is not None:
                self._timer.cancel()
            if self._bar is not None:
                self._bar.stop()

    def __call__(self, step: str, fraction: float | None = None) -> None:
        """Note that a step has begun or got further.

        Args:
            step: its name.
            fraction: how much of it is done, 0 to 1; None where that is not known.
        """
        if not self._enabled:
            return
        with self._lock:
            self._step, self._fraction = step, fraction
            if self._bar is not None:
                self._show(self._bar)
            elif self._timer is None:
                self._timer = Timer(_PATIENCE, self._appear)
                self._timer.daemon = True
                self._timer.start()

    def _appear(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if not self._enabled:
                return
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}", markup=False),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", left="")
            self._show(self._bar)
            self._bar.start()

    def _show(self, bar: Progress) -> None:
        task = bar.task_ids[0]
        known = self._fraction is not None
        if self._step != self._shown:
            self._shown, self._begun = self._step, (time.monotonic(), self._fraction or 0.0)
        bar.update(
            task,
            description=self._step,
            completed=self._fraction or 0.0,
            total=1.0 if known else None,
            left=time_left(time.monotonic() - self._begun[0], self._begun[1], self._fraction),
        )


def time_left(seconds: float, start: float, fraction: float | None) -> str:
    """Return how long a step will take at its pace so far, for people; "" while too little is known.

    Args:
        seconds: since it began, or was first shown. start: what was done then. fraction: what is done now, 0 to 1.
    """
    if fraction is None or seconds < _PATIENCE or fraction - start < _LEAST_DONE:
        return ""
    left = round(seconds * (1 - fraction) / (fraction - start))
    minutes, rest = divmod(max(0, left), 60)
    return f"about {minutes} min {rest:02} s left" if minutes else f"about {rest} s left"
