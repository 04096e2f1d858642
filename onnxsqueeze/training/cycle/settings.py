"""What a run of Squeeze-Release is asked to do, as plain values that its workdir keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from onnxsqueeze.errors import UsageError

Cost = Literal["parameters", "macs", "latency"]
Likelihood = Literal["auto", "categorical", "probabilities", "gaussian"]
SMALLEST_SHARE = 0.02
"""Steps that remove less than this are not worth a training phase."""
SPARING = 1e-3
"""The default weight of the penalty under which units die; losses are of the order of 1."""


@dataclass(frozen=True)
class Settings:
    """How the cycles are run; see `SqueezeRelease` for each.

    Attributes:
        options: further fields of `SqueezeSettings`, such as the share of weight-level masks.
    """

    criterion: str = "units"
    teacher: bool | Literal["loop"] = False
    release: bool | Literal["alternate"] = True
    cost: Cost = "parameters"
    share: float = 0.4
    seed: int = 0
    likelihood: Likelihood = "auto"
    round_to: str | int = "auto"
    change: float = 0.01
    wrap: bool = True
    sparing: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be followed before any work is done."""
        if self.release not in (True, False, "alternate"):
            raise UsageError(f"release={self.release!r}: give True, False or 'alternate'")
        if self.teacher not in (True, False, "loop"):
            raise UsageError(f"teacher={self.teacher!r}: give True, False or 'loop'")
        for name, number in (("share", self.share), ("change", self.change)):
            if not is_number(number):
                raise UsageError(f"{name}={number!r}: give a number")
        whole = isinstance(self.round_to, int) and not isinstance(self.round_to, bool) and self.round_to >= 1
        if self.round_to != "auto" and not whole:
            raise UsageError(f"round_to={self.round_to!r}: give 'auto' or a positive number of channels")
        for name, value, known in (("cost", self.cost, Cost), ("likelihood", self.likelihood, Likelihood)):
            if value not in get_args(known):
                raise UsageError(f"{name}={value!r}: give one of {', '.join(get_args(known))}")
        if self.sparing is not None and not (is_number(self.sparing) and 0 <= self.sparing < math.inf):
            raise UsageError(f"sparing={self.sparing!r}: give the weight of the penalty, from 0, or None")
        if not SMALLEST_SHARE <= self.share < 1:
            raise UsageError(f"share={self.share!r}: give the part of the elements to remove, 0.02 to below 1")
        if not 0 < self.change < 1:
            raise UsageError(f"change={self.change!r}: give the relative change of the outputs, such as 0.01")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"seed={self.seed!r}: give an integer from 0")

    def releases(self, cycle: int) -> bool:
        """Whether a cycle starts by releasing the zeros that the one before has left."""
        return cycle % 2 == 0 if self.release == "alternate" else bool(self.release)

    @property
    def single(self) -> bool:
        """Whether it is single weights that go, so that units leave only where all of theirs do."""
        return self.criterion != "units" and not self.options.get("structured")

    def spares(self, cycle: int) -> float:
        """Return the weight of the penalty under which units die in a cycle."""
        if self.sparing is None:
            return SPARING if self.single and self.releases(cycle) else 0.0
        return self.sparing

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Goal:
    """How far a run goes.

    Attributes:
        cycles: at most so many.
        max_drop: how much worse than the dense network the metric may be, in the metric's own unit; None: any.
        target_ratio: the dense network's weight elements by those of the file wanted; None: as far as the other two
            allow.
    """

    cycles: int = 8
    max_drop: float | None = 0.005
    target_ratio: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if isinstance(self.cycles, bool) or not isinstance(self.cycles, int) or self.cycles < 0:
            raise UsageError(f"cycles={self.cycles!r}: give a number of cycles")
        if self.max_drop is not None and not (is_number(self.max_drop) and self.max_drop >= 0):
            raise UsageError(f"max_drop={self.max_drop!r}: give a difference of the metric, from 0, such as 0.005")
        if self.target_ratio is not None and not (is_number(self.target_ratio) and 1 < self.target_ratio < math.inf):
            raise UsageError(f"target_ratio={self.target_ratio!r}: give a ratio above 1, such as 10")

    def changed(self, cycles: int | None, max_drop: float | None, target_ratio: float | None) -> Goal:
        """Return the goal with what is given; a ratio alone is to be reached whatever the metric does."""
        if target_ratio is not None and max_drop is None:
            found = replace(self, max_drop=None, target_ratio=target_ratio)
        elif max_drop is not None:
            found = replace(self, max_drop=max_drop, target_ratio=target_ratio)
        else:
            found = self
        return found if cycles is None else replace(found, cycles=cycles)


def is_number(value: object) -> bool:
    """Whether a value is a real number, which True is not meant as."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def goal_of(given: Goal | Mapping[str, Any]) -> Goal:
    """Return a goal that is given as one, or by names; a ratio alone is to be reached whatever the metric does.

    Raises:
        UsageError: for another name, or something else.
    """
    if isinstance(given, Goal):
        return given
    names = {"cycles", "max_drop", "target_ratio"}
    if not isinstance(given, Mapping) or not set(given) <= names:
        raise UsageError(f"goals: {given!r} is not a mapping of {', '.join(sorted(names))}")
    return Goal().changed(given.get("cycles"), given.get("max_drop"), given.get("target_ratio"))
