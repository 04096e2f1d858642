"""Einsum by its equation."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, lowering


@lowering("Einsum")
def einsum(call: NodeCall) -> Tensor:
    """torch reads the same equations."""
    result: Tensor = torch.einsum(str(call.attribute("equation")).replace(" ", ""), *call.tensors())
    return result
