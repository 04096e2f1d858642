"""What a page can show, as plain data: networks, a front of quality against size, latencies, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxsqueeze.reporting.page.drawing import Drawing
from onnxsqueeze.reporting.report import Report


@dataclass(frozen=True)
class Total:
    """One of the figures at the top.

    Attributes:
        label: what it is. value: the figure. detail: what it is made of. share: how much is left, in percent; None
            where nothing became smaller.
    """

    label: str
    value: str
    detail: str
    share: float | None = None


@dataclass(frozen=True)
class NetworkPart:
    """A network that was minimized or inspected: its name, its report and its drawing."""

    name: str
    report: Report
    drawing: Drawing


@dataclass(frozen=True)
class FrontPoint:
    """A network on the front of quality against size.

    Attributes:
        name: what it is called. ratio: how many times smaller it is. value: its quality.
        chosen: whether it is the answer. front: whether no other is as small and as good. within: whether it may drop
            so much.
        facts: what else is to be said of it, each with its name.
        taken: what each layer lost: its name, the kind of its units, how many there were and are.
    """

    name: str
    ratio: float
    value: float
    chosen: bool = False
    front: bool = True
    within: bool = True
    facts: Sequence[tuple[str, str]] = ()
    taken: Sequence[tuple[str, str, int, int]] = ()


@dataclass(frozen=True)
class FrontPart:
    """The front: its points, what the axes are, and the lines across it.

    Attributes:
        points: in any order. x, y: names of the axes. dense: the value that it began with; limit: the lowest that is
            allowed, None for any. percent: whether values are shares.
    """

    points: Sequence[FrontPoint]
    x: str
    y: str
    dense: float
    limit: float | None = None
    percent: bool = True


@dataclass(frozen=True)
class LatencyRow:
    """One model in one runtime.

    Attributes:
        model: its name. latency: seconds of a run, None where it was not measured.
        ratio, low, high: to the first model, with its 95 % interval; None for the first.
        cells: what else was measured. problem: why it was not, "" if it was.
    """

    model: str
    latency: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    cells: Sequence[str] = ()
    problem: str = ""


@dataclass(frozen=True)
class LatencyPart:
    """Latencies: for each runtime its rows, and the names of their further cells."""

    runtimes: Sequence[tuple[str, Sequence[LatencyRow]]]
    columns: Sequence[str]


@dataclass(frozen=True)
class TablePart:
    """A table: its title, the names of its columns, its rows; the columns from ``left`` on are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Content:
    """All that a page shows.

    Attributes:
        title: its heading. verdict: one sentence. command: what made it. totals, notes: below the heading.
        networks, front, latency, tables: its parts, those that there are.
    """

    title: str
    verdict: str
    command: str
    totals: Sequence[Total] = ()
    notes: Sequence[str] = ()
    networks: Sequence[NetworkPart] = ()
    front: FrontPart | None = None
    latency: LatencyPart | None = None
    tables: Sequence[TablePart] = field(default=())
