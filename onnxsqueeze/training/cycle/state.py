"""The state of a run: plain values, of which each is replaced as a whole when a stage is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.cycle.settings import Goal, Settings
from onnxsqueeze.training.export.returned import Form

FORMAT = 1
"""Of state.json; a file of another format is refused."""


@dataclass(frozen=True)
class Record:
    """A finished cycle.

    Attributes:
        cycle: its number; 0 is the network that was given, minimized.
        base: the cycle whose network it started from.
        share, target: the part of the base's elements to remove, and those that its minimized.onnx was to have.
        elements: the weight elements of its minimized.onnx.
        network_elements: those of its network.onnx, from which the next cycle starts.
        left: those of them that are not held at zero.
        ratio: the dense network's elements by `elements`.
        metric: what the user's evaluation says of it.
        released: how many zeros became noise before it was trained.
        refusal: why a smaller network was refused by verification, so that some tensors stayed whole; "" if none was.
        seconds: what each stage took.
    """

    cycle: int
    base: int
    share: float
    target: int
    elements: int
    network_elements: int
    left: int
    ratio: float
    metric: float
    released: int = 0
    refusal: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Underway:
    """A cycle that is not finished.

    Attributes:
        cycle, base, share, target: see `Record`.
        stage: the last stage that is finished: "begun", "loosened" (to be trained before anything is masked), "ready"
            (to be squeezed), "squeezed", "trained" or "minimized".
        step: which of several steps of squeezing and training comes next or is under way, from 0.
        network: the file, relative to the workdir, that the next stage starts from.
        start: the file of the network before it was last trained, for criteria that look at movement; None: not kept.
        elements, network_elements, released, refusal, seconds: as far as they are known.
    """

    cycle: int
    base: int
    share: float
    target: int
    stage: str
    network: str
    step: int = 0
    start: str | None = None
    elements: int = 0
    network_elements: int = 0
    released: int = 0
    refusal: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def after(self, stage: str, seconds: Mapping[str, float], **changes: Any) -> Underway:
        """Return the cycle after one more stage; seconds of the same name add up."""
        spent = dict(self.seconds)
        for name, value in seconds.items():
            spent[name] = spent.get(name, 0.0) + value
        return replace(self, stage=stage, seconds=spent, **changes)


@dataclass(frozen=True)
class State:
    """All that is known of a run; the files that it names are finished.

    Attributes:
        settings, goal: what was asked for.
        dense_elements: the weight elements of dense.onnx.
        calibration: the file of calibration batches, relative to the workdir; None before there are any.
        given_calibration: whether the user gave these batches, so that no others take their place.
        records: the finished cycles; the first is cycle 0.
        underway: the cycle that is not finished.
        later: the goals that come after this one.
        pinned: the tensors that stay whole, since verification refused a network without some of their channels.
        exhausted: the cycle from whose network a squeeze could remove nothing; None if there was none.
        returns: how the module that was given returns its outputs, see `form_of`; None for one from ONNX.
        digests: SHA-256 of the networks that the run cannot go on without, by their names.
    """

    settings: Settings
    goal: Goal
    dense_elements: int
    calibration: str | None = None
    given_calibration: bool = False
    records: tuple[Record, ...] = ()
    underway: Underway | None = None
    later: tuple[Goal, ...] = ()
    pinned: tuple[str, ...] = ()
    exhausted: int | None = None
    returns: Form = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def dense_metric(self) -> float:
        """The metric of the dense network."""
        return self.records[0].metric

    def record(self, cycle: int) -> Record:
        """Return a finished cycle."""
        return next(record for record in self.records if record.cycle == cycle)

    def drop(self, record: Record) -> float:
        """Return how much worse than the dense network a cycle is."""
        return self.dense_metric - record.metric

    def within(self, record: Record) -> bool:
        """Whether a cycle is no more than the allowed drop worse than the dense network."""
        if self.goal.max_drop is None:
            return True
        rounding = 1e-9 * max(1.0, abs(self.dense_metric))  # 0.98 - 0.975 is a little more than 0.005
        return self.drop(record) <= self.goal.max_drop + rounding

    def to_json(self) -> bytes:
        """Return the state as a file's content."""
        plain = {"format": FORMAT, **asdict(self)}
        return (json.dumps(plain, indent=1) + "\n").encode()


def from_json(content: bytes, name: str) -> State:
    """Read a state.

    Raises:
        UsageError: when the file is no state of this version.
    """
    try:
        plain = json.loads(content)
        if plain.pop("format") != FORMAT:
            raise UsageError(f"{name}: written by another version of onnxsqueeze; finish the run with that version")
        underway = plain.pop("underway")
        return State(
            settings=Settings(**plain.pop("settings")),
            goal=Goal(**plain.pop("goal")),
            records=tuple(Record(**record) for record in plain.pop("records")),
            underway=Underway(**underway) if underway else None,
            later=tuple(Goal(**goal) for goal in plain.pop("later", ())),
            pinned=tuple(plain.pop("pinned", ())),
            **plain,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{name}: not the state of a run ({error}); give another workdir") from None
