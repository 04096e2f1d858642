"""Tell how far a run is: a bar while the package works, nothing in between while the user's loops run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from onnxsqueeze.training.cycle.state import Record, State


class Announcer:
    """Writes to stderr, so that a script's own output stays its own; silent if asked to be."""

    def __init__(self, shown: bool) -> None:
        self._console = Console(stderr=True, quiet=not shown, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Write one line."""
        self._console.print(line, markup=False)

    @contextmanager
    def working(self, what: str, done: int, cycles: int) -> Iterator[None]:
        """Show a bar of the finished cycles and what is being done, on a terminal; it goes when that is done."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True) as bar:
            bar.add_task(what, completed=done, total=cycles)
            yield

    def cycle(self, state: State, record: Record) -> None:
        """Write the line of a finished cycle."""
        self.say(cycle_line(state, record))


def cycle_line(state: State, record: Record) -> str:
    """Return what a cycle gave in one line: size, ratio, metric, drop, and the seconds of its stages."""
    name = f"cycle {record.cycle}" if record.cycle else "dense  "
    parts = [
        f"{name}: {record.elements:,} elements",
        f"{record.ratio:.2f}x",
        f"metric {record.metric:.5g}",
        f"drop {state.drop(record):+.5g}" + ("" if state.within(record) else " (too much)"),
        f"{sum(record.seconds.values()):.1f} s",
    ]
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in record.seconds.items())
    return "  ".join(parts) + (f" ({stages})" if stages else "")
