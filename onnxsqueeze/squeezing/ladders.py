"""A database: what each family's sizes cost at the network's outputs, the readers repaired, all else as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.alignment import Alignment, Rounded, as_it_is
from onnxsqueeze.squeezing.effort import Effort, duration, effort_of
from onnxsqueeze.squeezing.evaluation import Evaluator
from onnxsqueeze.squeezing.families import Family
from onnxsqueeze.squeezing.gathering import Problems, gathered
from onnxsqueeze.squeezing.least_squares import Floats, Numbers
from onnxsqueeze.squeezing.metrics import Judge
from onnxsqueeze.squeezing.ordering import Removal, measured_scores
from onnxsqueeze.squeezing.reader import Arrays, Reader
from onnxsqueeze.squeezing.refitting import masked
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.units.units import Units

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Tell = Callable[[str, "float | None"], None]

_SHARES = (
    0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2, 0.16, 0.13, 0.1, 0.08, 0.06, 0.045, 0.03, 0.02, 0.01, 0,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Network:
    """The dense network and all that is known of it.

    Attributes:
        model: with a bias wherever a layer can have one. units, families, readers: of it.
        judge: how outputs are compared. part: the samples for choices. seed: of all that is drawn.
        round_to: what sizes are rounded to when the network is minimized.
    """

    model: Model
    units: Units
    readers: tuple[Reader, ...]
    families: tuple[Family, ...]
    judge: Judge
    part: Part
    seed: int
    round_to: str | int = 1

    @cached_property
    def alignment(self) -> Alignment:
        """To which sizes families are raised."""
        return Alignment.of(self.units, self.round_to)

    @cached_property
    def effort(self) -> Effort:
        """How many samples what is measured takes."""
        return effort_of(self.units, self.families, self.readers, len(_SHARES))

    def gathered(self, readers: Sequence[Reader], now: Model | None = None) -> dict[str, Problems]:
        """Return the least-squares problems of layers, of a network that has changed as well; see `gathered`."""
        return gathered(self.model, readers, self.part.first(self.effort.gathered), self.seed, now)

    def arrays(self) -> dict[str, Array]:
        """Return all weights as they are."""
        return {name: initializer.array for name, initializer in self.model.initializers.items()}

    def masked(self, arrays: Arrays, removed: Bools) -> dict[str, Array]:
        """Return weights without those of removed units."""
        return masked(arrays, self.units.masks(removed))


@dataclass(frozen=True, eq=False)
class Ladder:
    """The sizes of one family, downwards.

    Attributes:
        family: the family. sizes: from all to none. errors: at the network's outputs, never falling.
        gone_at: by unit of the family the largest size at which it has left.
        scores: what each unit is worth, where that was measured.
        rounded: how many units stay when so many should.
    """

    family: Family
    sizes: tuple[int, ...]
    errors: tuple[float, ...]
    gone_at: Numbers
    scores: Floats | None = None
    rounded: Rounded = as_it_is

    def removed(self, size: int, units: int) -> Bools:
        """Return which of so many units of the network have left at a size."""
        found = np.zeros(units, dtype=bool)
        found[self.family.units[self.gone_at >= size]] = True
        return found

    def error(self, size: int) -> float:
        """Return the error at a size, between those that were measured by interpolation."""
        return float(np.interp(size, self.sizes[::-1], self.errors[::-1]))


def sizes_of(family: Family, rounded: Rounded = as_it_is) -> list[int]:
    """Return the sizes that are tried, downwards, as they are rounded."""
    found = [family.size]
    for share in _SHARES:
        size = rounded(round(share * family.size))
        if size < found[-1]:
            found.append(size)
    return found


def ladders_of(network: Network, tell: Tell) -> list[Ladder]:
    """Measure all families of a network."""
    effort = network.effort
    few, seconds_of_few = _timed(network, effort.measured)
    evaluator, seconds = _timed(network, effort.evaluated)
    phase = f"measuring what may leave, {duration(effort.seconds(seconds_of_few, seconds))}"
    problems: dict[str, Problems] = {}
    found = []
    for number, family in enumerate(network.families):
        tell(phase, number / len(network.families))
        missing = [reader for reader in family.readers if reader.name not in problems]
        if missing:
            wanted = _with_others(network, number, missing)
            problems = {**_still_needed(network, number, problems), **network.gathered(wanted)}
        scores = None if family.exact else _scores(network, family, few)
        found.append(_ladder(network, family, problems, scores, evaluator))
    return found


def _timed(network: Network, samples: int) -> tuple[Evaluator, float]:
    """Return what compares networks on so many samples, and how long the original took on them."""
    started = time.perf_counter()
    found = Evaluator(network.model, network.judge, network.part.first(samples))
    return found, time.perf_counter() - started


_AT_ONCE = 1 << 26  # elements of moments


def _with_others(network: Network, number: int, missing: Sequence[Reader]) -> list[Reader]:
    """Return readers to gather together with those of a family: the next families', as far as memory goes."""
    found = list(missing)
    size = sum(reader.groups * reader.columns**2 for reader in found)
    for family in network.families[number + 1 :]:
        for reader in family.readers:
            own = reader.groups * reader.columns**2
            if size + own > _AT_ONCE:
                return found
            if reader.name not in {each.name for each in found}:
                found.append(reader)
                size += own
    return found


def _still_needed(network: Network, number: int, problems: dict[str, Problems]) -> dict[str, Problems]:
    names = {reader.name for reader in network.families[number].readers}
    return {name: problem for name, problem in problems.items() if name in names}


def _scores(network: Network, family: Family, evaluator: Evaluator) -> Floats:
    arrays = network.arrays()
    return measured_scores(family, len(network.units), lambda removed: evaluator.error(network.masked(arrays, removed)))


def _ladder(
    network: Network,
    family: Family,
    problems: dict[str, Problems],
    scores: Floats | None,
    evaluator: Evaluator,
) -> Ladder:
    removal = Removal(family, network.units, problems, scores)
    rounded = network.alignment.raised(family)
    sizes = sizes_of(family, rounded)
    sizes = [*sizes[: -1 : network.effort.apart], sizes[-1]]
    errors = [0.0]
    for size in sizes[1:]:
        removal.down_to(size)
        gone = removal.removed(len(network.units))
        arrays = _repaired(network, removal, problems)
        errors.append(max(errors[-1], evaluator.error(network.masked(arrays, gone))))
    return Ladder(family, tuple(sizes), tuple(errors), removal.gone_at, scores, rounded)


def _repaired(network: Network, removal: Removal, problems: dict[str, Problems]) -> dict[str, Array]:
    """Return all weights with those of the family's readers as the removal left them."""
    arrays = network.arrays()
    weights: dict[str, list[Floats]] = {}
    for name, _, weight in removal.weights():
        weights.setdefault(name, []).append(weight)
    for reader in removal.family.readers:
        own = weights[reader.name]
        pairs = zip(problems[reader.name].joined(), own, strict=True)
        biases = [problem.shift(weight) for problem, weight in pairs]
        bias = None if biases[0] is None else np.stack([each for each in biases if each is not None])
        arrays.update(reader.written(arrays, np.stack(own), bias))
    return arrays
