"""Exact zeros where a mask is False, in the forward as in the gradient, whatever stands there."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Masked(torch.autograd.Function):
    """Zeroes bits. (torch.where takes ten times as long on a CPU, and a product makes NaN of an infinite weight.)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, mask: Tensor) -> Tensor:
        """Return the values where the mask is True, else 0."""
        bits = _INTEGERS[values.element_size()]
        return (values.view(bits) & mask.to(bits).neg()).view(values.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep the mask."""
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Mask the gradient alike, differentiable again."""
        return masked(gradient, ctx.saved_tensors[0]), None


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Return floating-point values where a mask of their shape is True, else 0."""
    return cast(Tensor, _Masked.apply(values, mask))  # type: ignore[no-untyped-call]
