"""Squeeze: masks that leave about as many weight elements as asked, chosen by a criterion, in one or several steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.calibration.batches import Batch, device_of, fed
from onnxsqueeze.training.calibration.likelihood import Likelihood
from onnxsqueeze.training.criteria import UNITS, CriterionContext, Evidence, criterion_named
from onnxsqueeze.training.criteria.evidence import Losses
from onnxsqueeze.training.criteria.folding import fold_means
from onnxsqueeze.training.criteria.ranking import kept
from onnxsqueeze.training.criteria.registry import Ranking
from onnxsqueeze.training.squeezing.elements_left import elements_left, remaining
from onnxsqueeze.training.squeezing.repair import repair
from onnxsqueeze.training.squeezing.schedule import cubic_targets
from onnxsqueeze.training.squeezing.unit_masks import Bools, Floats, Masks, slices, unit_masks, unit_sums
from onnxsqueeze.training.units import Units, measured_latency, remove_units, select
from onnxsqueeze.units.discovery import units_of
from onnxsqueeze.units.weight_uses import by_weight, linear_uses

if TYPE_CHECKING:
    from onnxsqueeze.model.model import Model
    from onnxsqueeze.training.module import OnnxModule

Train = Callable[["OnnxModule", int], None]
"""Trains the module between two steps of a squeeze, given the step that comes next, from 0."""

Stored = Callable[["OnnxModule"], int]
"""Counts the weight elements of the file that a module with its masks becomes."""

_TRIALS = 9
_CLOSE = 0.97  # of the elements wanted

Cost = Literal["parameters", "macs", "latency"] | Mapping[int, float]


@dataclass(frozen=True)
class SqueezeSettings:
    """How a squeeze chooses what goes.

    Attributes:
        criterion: "units" for whole units by what the loss would grow, else the name of a registered criterion.
        cost: what a unit costs: "parameters", "macs", "latency", which is measured on one of the batches on this
            machine, or the seconds of each group; see `Units.cost`.
        likelihood: what the outputs are: "categorical" scores, "probabilities", "gaussian" means, or "auto".
        ranking: "global" or "layer", of single weights; None leaves it to the criterion.
        structured: whether a criterion of weights removes whole units, by the sum of the scores of what belongs to
            each, divided by what it costs.
        weights: with units, the share of what goes that goes as single weights inside the units that stay.
        weight_criterion: which criterion chooses those.
        finish_off: whether those are spent on whole units as long as they last: units of which no more than this share
            of the weights would remain; True takes any, and first those of the least score for their size.
        steps: in how many steps of the cubic schedule the weights go; what is trained between them is the caller's.
        floor: the share of each weight that single weights never fall below; at 0 a whole layer may go.
        tables: whether single weights of embedding tables may go, too.
        repair: whether layers are repaired by least squares for what leaves, as by `onnxsqueeze.squeeze`: worth some
            tenths of a point where trainings are short. It is whole columns that others take over from; for single
            weights the bias moves.
        positions: whether positions of channels that a layer reads side by side, as behind Flatten, are units by
            themselves. They make files smaller, few of which run faster: those that stay are gathered.
        keep: names or glob patterns of tensors, by their ONNX names, of which no unit goes: of a graph input it is its
            columns. Single weights may still go.
    """

    criterion: str = UNITS
    cost: Cost = "parameters"
    likelihood: Likelihood = "auto"
    ranking: Ranking | None = None
    structured: bool = False
    weights: float = 0.0
    weight_criterion: str = "magnitude"
    finish_off: float = 0.0
    steps: int = 1
    floor: float = 0.01
    tables: bool = False
    repair: bool = False
    positions: bool = False
    keep: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be followed before any work is done."""
        if self.criterion != UNITS:
            criterion_named(self.criterion)
        criterion_named(self.weight_criterion)
        if not isinstance(self.cost, Mapping) and self.cost not in ("parameters", "macs", "latency"):
            raise UsageError(f"cost={self.cost!r}: give 'parameters', 'macs', 'latency' or seconds by group of units")
        numbers = {"weights": self.weights, "finish_off": self.finish_off, "floor": self.floor}
        for name, value in numbers.items():
            if not isinstance(value, (int, float)):
                raise UsageError(f"{name}={value!r}: give a number")
        if not 0 <= self.weights < 1:
            raise UsageError(f"weights={self.weights!r}: give the share that goes as single weights, 0 to below 1")
        if not 0 <= self.finish_off <= 1:
            raise UsageError(f"finish_off={self.finish_off!r}: give True, or a share from 0 to 1")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError(f"steps={self.steps!r}: give a number of steps from 1")
        if not 0 <= self.floor < 1:
            raise UsageError(f"floor={self.floor!r}: give the share of each weight that stays, 0 to below 1")
        if isinstance(self.keep, str) or not all(isinstance(name, str) for name in self.keep):
            raise UsageError(f"keep={self.keep!r}: give a list of names or patterns of tensors")
        if self.ranking not in (None, "global", "layer"):
            raise UsageError(f"ranking={self.ranking!r}: give 'global' or 'layer'")


@dataclass(frozen=True)
class SqueezeOutcome:
    """What a squeeze did.

    Attributes:
        target: the weight elements that were to be left. before, left: those that were and are not zero.
        tensors: for each tensor with masks how many elements they leave, and how many it has.
        units: how many units of each kind were removed.
        folded: to how many layers' biases the mean of what went was added. repaired: how many layers were repaired.
        note: why less went than was asked for, "" if as much did.
    """

    target: int
    before: int
    left: int
    tensors: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    units: Mapping[str, int] = field(default_factory=dict)
    folded: int = 0
    repaired: int = 0
    note: str = ""


def squeeze(
    module: OnnxModule,
    target: int,
    settings: SqueezeSettings,
    batches: Iterable[Batch],
    generator: torch.Generator,
    *,
    losses: Losses | None = None,
    start: Mapping[str, Tensor] | None = None,
    train: Train | None = None,
    stored: Stored | None = None,
) -> SqueezeOutcome:
    """Set masks on a module so that about ``target`` weight elements are left, biases and norms counted.

    Masks that are there stay. Criteria of single weights count what is not zero: the minimized network is larger as
    long as units keep some of their weights. The module's modes are kept.

    Args:
        module: the module. target: weight elements, see `measure.weight_elements`.
        settings: how to choose. batches: calibration inputs, if the criterion looks at them. generator: on the CPU.
        losses: a user's own loss for criteria that use gradients: from the module, one loss for each small batch.
        start: the values that movement is measured from; by default those that the module was made from.
        train: called between steps, and before the first for criteria that need training.
        stored: for criteria of single weights: with it the target is what this counts, found by trying.

    Raises:
        UsageError: when the target or a batch cannot be followed, or a criterion gives NaN.
    """
    if target < 1:
        raise UsageError(f"a squeeze cannot leave {target} weight elements")
    job = _Job(module, settings, list(batches), generator, losses, start, stored)
    before = job.left() if stored is None else stored(module)
    if target >= before:
        return job.outcome(target, before)
    for step, goal in enumerate(cubic_targets(before, target, settings.steps)):
        if train is not None and (step or job.criterion.needs_training):
            train(module, step)
        origin = module.write_back() if settings.repair else None
        job.run(goal)
        if origin is not None:
            job.repair(origin)
    return job.outcome(target, before)


class _Job:
    """One squeeze: what it was asked, and what it has done so far."""

    def __init__(
        self,
        module: OnnxModule,
        settings: SqueezeSettings,
        batches: list[Batch],
        generator: torch.Generator,
        losses: Losses | None,
        start: Mapping[str, Tensor] | None,
        stored: Stored | None = None,
    ) -> None:
        self.module = module
        self.stored = stored
        self.settings = settings
        self.batches = batches
        self.generator = generator
        by_units = settings.criterion == UNITS
        self.criterion = criterion_named(settings.weight_criterion if by_units else settings.criterion)
        self.uses = by_weight(linear_uses(module.model, set(module.initializers)))
        self.removed: Counter[str] = Counter()
        self.folded = self.repaired = 0
        self._losses = losses
        self._start = start

    @cached_property
    def units(self) -> Units:
        """The units of the dense network."""
        return units_of(self.module.model, positions=self.settings.positions, trained=self.module.initializers)

    @cached_property
    def _stays(self) -> Bools:
        """Which units are not to go, whatever they are worth."""
        return self.units.named(self.settings.keep)

    @cached_property
    def cost(self) -> Literal["parameters", "macs"] | Mapping[int, float]:
        """What units cost, measured once if it is the latency."""
        if self.settings.cost != "latency":
            return self.settings.cost
        return measured_latency(self.module.write_back(), self.units, fed(self.batches, self.module)[0])

    @cached_property
    def _before(self) -> Bools:
        """Which units were gone before this squeeze."""
        return self._removed()

    def _removed(self) -> Bools:
        """Return which units masks have left nothing of."""
        masks = {name: mask.cpu().numpy() for name, mask in self.module.masks.items()}
        return np.asarray(self.units.elements_under(masks) == 0)

    def evidence(self) -> Evidence:
        """Return what can be measured of the module as it is now."""
        return Evidence(
            self.module,
            self.batches,
            self.generator,
            likelihood=self.settings.likelihood,
            losses=self._losses,
            start=self._start,
            uses=self.uses,
        )

    def alive(self) -> Masks:
        """Return for each weight that single elements may go of which of them are not zero."""
        tables = {name for name, uses in self.uses.items() if any(use.table for use in uses)}
        return self._alive(name for name in self.uses if self.settings.tables or name not in tables)

    def _alive(self, names: Iterable[str]) -> Masks:
        left = remaining(self.module)
        return {name: left[name] if name in left else _whole(self.module.initializers[name]) for name in names}

    def left(self) -> int:
        """Return how many weight elements are left, neither masked nor zeros of matrices and kernels."""
        return elements_left(self.module)

    def run(self, goal: int) -> None:
        """Set masks that leave ``goal`` elements."""
        settings = self.settings
        by_units = settings.criterion == UNITS
        if not by_units and not settings.structured:
            self._single(goal)
            return
        single = settings.weights if by_units else 0.0
        left = self.left()
        self._whole(left - round((1 - single) * (left - goal)))
        if single and settings.finish_off:
            self._finish_off(goal)
        if single:
            self._single(goal)

    def repair(self, origin: Model) -> None:
        """Repair the layers for what the masks took since the module was ``origin``."""
        self.repaired += repair(self.module, origin, self.units, fed(self.batches, self.module), self.generator)

    def _whole(self, goal: int) -> None:
        """Remove whole units until ``goal`` elements are left.

        Their number is predicted for the minimized model, in which zeros inside the units that stay are stored: it is
        to fall by the same factor.
        """
        units, removed = self.units, self._before | self._removed()
        stored = units.left(removed)
        target = round(stored * goal / self.left())
        if self.settings.criterion == UNITS:
            self._by_loss(target)
            return
        for elements in slices(stored, target):
            scores = unit_sums(units, self._scores(self.evidence(), self._alive(self.uses)))
            scores[self._stays] = np.inf
            cost = units.cost(self.cost, removed)
            removed = select(units, scores, elements, cost=cost, removed=removed)
            self.mask(unit_masks(units, removed, device_of(self.module)))
        self._count(removed)

    def _by_loss(self, target: int) -> None:
        """Remove the units whose loss costs least, as `remove_units` does."""
        settings = self.settings
        removal = remove_units(
            self.module,
            target,
            self.batches,
            units=self.units,
            cost=self.cost,
            likelihood=settings.likelihood,
            keep=settings.keep,
            generator=self.generator,
        )
        self._count(removal.removed)

    def _finish_off(self, goal: int) -> None:
        """Remove units of which single weights, chosen until ``goal`` are left, would leave little.

        First go those whose remaining weights have the lowest score for what the unit takes in the minimized model.
        """
        units, alive = self.units, self.alive()
        scores = self._scores(self.evidence(), alive)
        rest = self._kept(scores, alive, goal)
        remaining = unit_sums(units, {name: score * rest[name] for name, score in scores.items()})
        remaining[self._stays | (unit_sums(units, rest) > self.settings.finish_off * unit_sums(units, alive))] = np.inf
        removed = self._within(self.left() - goal, remaining)
        self.mask(unit_masks(units, removed, device_of(self.module)))
        self._count(removed)

    def _within(self, budget: int, scores: Floats) -> Bools:
        """Return the units that leave by these scores without more than ``budget`` elements that are there going."""
        units, before = self.units, self._removed()
        cost = units.cost("parameters", before)
        there = {name: _whole(weight) for name, weight in self.module.initializers.items()} | remaining(self.module)
        low, high = 0, units.left(before)  # to leave ``high`` in the minimized model is within the budget, ``low`` not
        removed = before
        while high - low > max(1, high // 200):
            middle = (low + high) // 2
            found = select(units, scores, middle, cost=cost, removed=before)
            masks = unit_masks(units, found, device_of(self.module))
            if sum(int((there[name] & ~mask).sum()) for name, mask in masks.items()) <= budget:
                high, removed = middle, found
            else:
                low = middle
        return removed

    def _count(self, removed: Bools) -> None:
        """Note which units are gone by now that were there before the squeeze."""
        gone = self.units.gone(removed) & ~self._before
        self.removed = Counter(kind for kind, flag in zip(self.units.kinds, gone, strict=True) if flag)

    def _single(self, goal: int) -> None:
        """Mask single weights until ``goal`` elements are left."""
        alive, evidence = self.alive(), self.evidence()
        scores = self._scores(evidence, alive)
        masks = self._kept(scores, alive, goal) if self.stored is None else self._storing(scores, alive, goal)
        if self.criterion.folds_mean:
            folded = fold_means(evidence, {name: alive[name] & ~mask for name, mask in masks.items()})
            self.folded += sum(folded.values())
        self.mask(masks)

    def _storing(self, scores: Mapping[str, Tensor], alive: Mapping[str, Tensor], goal: int) -> Masks:
        """Return the widest masks of single weights under which a file stores ``goal`` elements, by bisection.

        How many weights that leaves cannot be told beforehand: the file loses what units have no weights left.
        """
        assert self.stored is not None
        given, high = self.module.masks, float(self.left())
        low, found = 1.0, self._kept(scores, alive, 1)
        guess = high * min(1.0, goal / self.stored(self.module))
        for _ in range(_TRIALS):
            masks = self._kept(scores, alive, round(guess))
            self.mask(masks)
            elements = self.stored(self.module)
            self.module.set_masks(given)
            if elements <= goal:
                low, found = guess, masks
            else:
                high = guess
            if _CLOSE * goal <= elements <= goal or low > _CLOSE * high:
                break
            guess = (low * high) ** 0.5
        return found

    def _kept(self, scores: Mapping[str, Tensor], alive: Mapping[str, Tensor], goal: int) -> Masks:
        """Return masks of single weights that leave ``goal`` elements of the module."""
        keep = goal - (self.left() - sum(int(mask.sum()) for mask in alive.values()))
        ranking = self.settings.ranking or self.criterion.ranking
        return kept(scores, alive, keep, ranking, self.settings.floor, self.generator)

    def _scores(self, evidence: Evidence, alive: Mapping[str, Tensor]) -> Masks:
        """Return the criterion's scores of some weights, zero where a weight is gone."""
        scores = {}
        for name in alive:
            weight = evidence.weight(name)
            with torch.no_grad():
                score = self.criterion.score(weight, CriterionContext(name, evidence))
            if score.shape != weight.shape:
                raise UsageError(
                    f"the criterion '{self.criterion.name}' gives scores of shape {list(score.shape)} for {name} "
                    f"of shape {list(weight.shape)}; give one for each element"
                )
            scores[name] = torch.where(alive[name], score.to(weight.device), 0.0)
        return scores

    def mask(self, masks: Mapping[str, Tensor]) -> None:
        """Set masks in addition to those that are there."""
        merged = dict(self.module.masks)
        for name, mask in masks.items():
            merged[name] = merged[name] & mask if name in merged else mask
        self.module.set_masks({name: mask for name, mask in merged.items() if not bool(mask.all())})

    def outcome(self, target: int, before: int) -> SqueezeOutcome:
        """Return what was done."""
        left = self.left() if self.stored is None else self.stored(self.module)
        tensors = {name: (int(mask.sum()), mask.numel()) for name, mask in self.module.masks.items()}
        note = ""
        if target >= before:
            note = f"nothing went, since no more than {before} elements were left before"
        elif left > target * 1.02 + 1:
            note = "the floors of layers and units kept more than was asked for"
        return SqueezeOutcome(target, before, left, tensors, dict(self.removed), self.folded, self.repaired, note)


def _whole(weight: Tensor) -> Tensor:
    return torch.ones_like(weight, dtype=torch.bool)
