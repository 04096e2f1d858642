"""Einsum by its equation."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import Call, form


@form("Einsum")
def einsum(call: Call) -> Tensor:
    """torch reads the same equations."""
    result: Tensor = torch.einsum(str(call.attribute("equation")).replace(" ", ""), *call.tensors())
    return result
