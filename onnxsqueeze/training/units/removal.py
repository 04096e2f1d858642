"""Removes units from a module, slice by slice, measuring them again after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.calibration.batches import Batch
from onnxsqueeze.training.calibration.likelihood import Likelihood
from onnxsqueeze.training.units.scoring import unit_scores
from onnxsqueeze.units.discovery import units_of
from onnxsqueeze.units.selection import Floors, select
from onnxsqueeze.units.units import Bools, Units

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule

Cost = Literal["parameters", "macs"] | Mapping[int, float]
SLICE = 0.12
"""The share of the elements after whose removal scores are no longer to be trusted."""


@dataclass(frozen=True)
class Removal:
    """What `remove_units` did.

    Attributes:
        units: of the module's model. removed: which of them are removed, those of before included.
        before, left: weight elements that minimizing leaves, predicted. rounds: how often units were measured.
    """

    units: Units
    removed: Bools
    before: int
    left: int
    rounds: int

    @property
    def by_kind(self) -> dict[str, int]:
        """How many units of each kind are gone; dims that left with their head count as such."""
        gone = self.units.gone(self.removed)
        return dict(Counter(kind for kind, flag in zip(self.units.kinds, gone, strict=True) if flag))


def remove_units(
    module: OnnxModule,
    target_elements: float,
    batches: Iterable[Batch],
    *,
    units: Units | None = None,
    cost: Cost = "parameters",
    likelihood: Likelihood = "auto",
    floors: Floors = Floors(),  # noqa: B008  (frozen)
    keep: Sequence[str] = (),
    generator: torch.Generator | None = None,
) -> Removal:
    """Mask whole units, the least for their cost first, until about ``target_elements`` are left when minimized.

    Masks that are there stay, and units of which they have left nothing count as removed.

    Args:
        module: its masks are set.
        target_elements: weight elements of the minimized model.
        batches: inputs without labels.
        units: of the module's model, if they are known already.
        cost: see `Units.cost`. likelihood, generator: see `unit_scores`. floors: what must stay in each layer.
        keep: names or glob patterns of tensors of which no unit goes.

    Raises:
        UsageError: when the target is not positive, or a batch does not fit.
    """
    if target_elements < 1:
        raise UsageError(f"removing units cannot leave {target_elements} weight elements; give at least 1")
    units = units or units_of(module.model, trained=module.initializers)
    batches, generator = list(batches), generator or torch.Generator().manual_seed(0)
    masks = module.masks
    removed = units.elements_under({name: mask.cpu().numpy() for name, mask in masks.items()}) == 0
    before = left = units.left(removed)
    stays, rounds = units.named(keep), 0
    while left > target_elements:
        scores = unit_scores(module, units, batches, likelihood=likelihood, generator=generator)
        scores[stays] = np.inf
        goal = max(target_elements, left * (1 - SLICE))
        price = units.cost(cost, removed)
        removed = select(units, scores, goal, cost=price, removed=removed, floors=floors)
        rounds, earlier, left = rounds + 1, left, units.left(removed)
        module.set_masks(_merged(masks, units.masks(removed), module))
        if left >= earlier:
            break
    return Removal(units, removed, before, left, rounds)


def _merged(masks: Mapping[str, Tensor], more: Mapping[str, Bools], module: OnnxModule) -> dict[str, Tensor]:
    """Return masks under which only those elements stay that both leave."""
    found = dict(masks)
    for name, mask in more.items():
        tensor = torch.from_numpy(np.array(mask)).to(module.initializers[name].device)
        found[name] = found[name] & tensor if name in found else tensor
    return found
