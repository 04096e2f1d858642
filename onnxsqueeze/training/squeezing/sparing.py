"""A penalty under which units die while a network is trained: single weights alone leave nearly all of them alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from onnxsqueeze.units.weight_uses import Use, by_weight, linear_uses

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule

_SMALLEST = 1e-12  # of the square of a norm, whose slope at zero is infinite


@contextmanager
def sparing(module: OnnxModule, weight: float) -> Iterator[None]:
    """Add to the loss of any loop, inside of the context, ``weight`` times the norms of what channels are read by.

    That is the group lasso of all weights by which layers multiply one channel: the gradient of each is added where a
    backward pass arrives at it, so that the loop's loss stays as it is. A loop that scales its loss makes the penalty
    smaller by that. Weights of embedding tables, and those that several layers read differently, are left out.
    """
    parameters = module.initializers
    uses = by_weight(linear_uses(module.model, set(parameters)))
    handles = [
        parameters[name].register_hook(_penalty(module, name, own[0], weight))  # type: ignore[no-untyped-call]
        for name, own in uses.items()
        if parameters[name].requires_grad and not own[0].table and all(_alike(use, own[0]) for use in own)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _alike(use: Use, other: Use) -> bool:
    return not use.table and np.array_equal(use.read, other.read)


def _penalty(module: OnnxModule, name: str, use: Use, weight: float) -> Callable[[Tensor], Tensor]:
    """Return a hook that adds the gradient of the penalty to that of a weight."""
    parameter, norms = module.initializers[name], _norms(use, module.initializers[name].device)

    def add(gradient: Tensor) -> Tensor:
        values, mask = parameter.detach(), module.masks.get(name)
        values = values if mask is None else values * mask
        return gradient + (weight * values / norms(values)).to(gradient.dtype)

    return add


def _norms(use: Use, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function from a stored weight to the norm of each element's channel, of a shape that broadcasts."""
    read = use.read
    axes = [axis for axis in range(read.ndim) if (read != read.take([0], axis)).any()]
    if len(axes) == 1 and len(np.unique(read)) == read.shape[axes[0]]:
        others = [axis for axis in range(read.ndim) if axis != axes[0]]
        return lambda values: (values.square().sum(others, keepdim=True) + _SMALLEST).sqrt()
    numbers = read - min(0, int(read.min(initial=0)))  # what is read by none is a group, too
    places, count = torch.from_numpy(numbers).to(device), int(numbers.max()) + 1

    def by_place(values: Tensor) -> Tensor:
        sums = values.new_zeros(count).index_add_(0, places.flatten(), values.square().flatten())
        return (sums[places] + _SMALLEST).sqrt()

    return by_place
