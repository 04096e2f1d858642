"""Criteria of single weights at the level of units: the scores of what belongs to a unit, summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onnxsqueeze.training.units import Units
from onnxsqueeze.training.units.removal import SLICE

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Masks = dict[str, Tensor]


def unit_sums(units: Units, values: Mapping[str, Tensor]) -> Floats:
    """Return for each unit the sum of the values of all elements that leave with it; float64.

    An element in the row of one unit and the column of another counts for both. What several nodes read alike counts
    once.

    Args:
        units: of the model. values: of the elements of some initializers; those of the others are left out.
    """
    by_class = np.zeros(units.classes)
    for weight in units.weights:
        if weight.name not in values:
            continue
        array = values[weight.name].detach().double().cpu().numpy()
        for use in weight.uses:
            for classes in use.arrays:
                summed = array.sum(axis=_alike(classes.shape, array.shape), keepdims=True)
                by_class += np.bincount(classes.ravel(), summed.ravel(), units.classes) / len(weight.uses)
    return units.per_unit(by_class)


def _alike(classes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes along which all elements are of one class."""
    return tuple(axis for axis, (one, length) in enumerate(zip(classes, shape, strict=True)) if one < length)


def unit_masks(units: Units, removed: Bools, device: torch.device) -> Masks:
    """Return the masks that make units leave."""
    return {name: torch.from_numpy(mask.copy()).to(device) for name, mask in units.masks(removed).items()}


def slices(elements: int, target: int) -> Iterator[int]:
    """Yield the numbers of elements to be left one after another, each by a slice less, down to the target."""
    while elements > target:
        elements = max(target, int(elements * (1 - SLICE)))
        yield elements
