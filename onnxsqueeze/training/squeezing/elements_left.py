"""What is left of a network: the elements that no mask and no exact zero takes away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onnxsqueeze.model.counting import weight_elements

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule


def remaining(module: OnnxModule) -> dict[str, Tensor]:
    """Return for each initializer that lacks elements which of them are left: boolean, of its shape.

    Gone is what a mask takes away, and the exact zeros of matrices and kernels. A tensor of which nothing but zeros
    would be left is taken for one that is still to be trained, and its zeros stay; so do those of biases.
    """
    masks, found = module.masks, {}
    for name, parameter in module.initializers.items():
        there = masks.get(name)
        if parameter.dim() > 1:
            apart = parameter.detach() != 0
            apart = apart if there is None else apart & there
            there = apart if bool(apart.any()) else there
        if there is not None and not bool(there.all()):
            found[name] = there
    return found


def elements_left(module: OnnxModule) -> int:
    """Return how many weight elements of a module's model are left, biases and norms counted."""
    gone = sum(int(torch.count_nonzero(~there)) for there in remaining(module).values())
    return weight_elements(module.model) - gone
