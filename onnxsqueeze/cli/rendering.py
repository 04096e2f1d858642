"""Tables, sentences, names and numbers on stdout: by rich, in colours on a terminal, plain elsewhere."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from onnxsqueeze.reporting.page import words

WHY, STAYED, BECAUSE, AT = _SENTENCES = ("why elements stayed, over all tensors", "stayed because", "because", "at")
"""Heads of columns that hold sentences, which may be wrapped."""
_UNLIMITED = 10_000  # columns where no terminal sets a limit, so that no name is cut
_BESIDE, _SHORTEST = 100, 24  # columns that a row takes beside a name, and the shortest name that is cut
_UNITS = ("", "k", "M", "G", "T", "P")


def rendered(parts: Sequence[RenderableType]) -> str:
    """Render for stdout, which is not touched: its width and encoding count, and colours if it is a terminal."""
    terminal = Console().is_terminal
    encoding = sys.stdout.encoding or "utf-8"
    file = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace", newline="")
    console = Console(file=file, force_terminal=terminal, markup=False, emoji=False, highlight=False)
    console.width = max(console.width, *(_narrowest(console, part) for part in parts)) if terminal else _UNLIMITED
    for part in parts:
        console.print(part)
        if isinstance(part, Table):
            console.print()
    file.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in file)


def _narrowest(console: Console, part: RenderableType) -> int:
    """Return how wide a table must be so that no name or number is broken; other parts may be broken."""
    if not isinstance(part, Table):
        return 0
    for column in part.columns:
        if column.no_wrap:  # else rich takes a cell to be as narrow as its longest word
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    return Measurement.get(console, console.options.update(max_width=_UNLIMITED), part).minimum


def table(*columns: str, left: int = 1) -> Table:
    """Return an empty table whose first columns are text, and the others numbers. Only reasons may be wrapped."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=column not in _SENTENCES)
    return table


def shown_name(name: str) -> str:
    """Return a layer's name, on a narrow terminal without its middle: what differs stands at the ends."""
    console, name = Console(), printable(name)
    most = max(_SHORTEST, console.width - _BESIDE) if console.is_terminal else _UNLIMITED
    if len(name) <= most:
        return name
    ends = most - 1
    return f"{name[: ends // 2]}…{name[len(name) - (ends - ends // 2) :]}"


def sentence(label: str, text: str, style: str = "") -> Text:
    """Return a line of what is said of something."""
    return Text.assemble((f"{label}: ", "bold"), (printable(text), style))


def named_sizes(sizes: Mapping[str, int]) -> str:
    """Return sizes of dimensions by name, as batch=1."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def change(before: str, after: str) -> str:
    """Return what something was and what it became, once if these are the same."""
    return before if before == after else f"{before} -> {after}"


def short(number: int) -> str:
    """Return a count in three digits and a unit, as 7.39M."""
    power = min(max(0, (len(str(number)) - 1) // 3), len(_UNITS) - 1)
    if power == 0:
        return str(number)
    scaled = number / 1000**power
    digits = max(0, 2 - int(math.log10(scaled)))
    return f"{scaled:.{digits}f}{_UNITS[power]}"


def size(count: float | None) -> str:
    """Return bytes in three digits and a unit, as 1.08 MB; "" for none."""
    return "" if count is None else words.readable(count, "B")


def duration(seconds: float | None) -> str:
    """Return a time in three digits and a unit, as 1.25 ms; "" for none. In ASCII, as all numbers here are."""
    return words.duration(seconds).replace("µ", "u")


def times(seconds: Mapping[str, float]) -> str:
    """Return how long something took, and each part of it."""
    phases = ", ".join(f"{phase} {duration(taken)}" for phase, taken in seconds.items())
    return f"{duration(sum(seconds.values()))} ({phases})"


def printable(text: str) -> str:
    """Return a text that can be shown on a terminal, whatever a model's author put into its names."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
