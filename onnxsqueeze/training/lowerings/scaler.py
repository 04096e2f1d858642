"""Scaler of ai.onnx.ml."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering


@leaf
def scaler(x: Tensor, offset: list[float], scale: list[float], like: Tensor) -> Tensor:
    """Return ``(x - offset) * scale`` by features, which are last, in the type of ``like``."""
    offsets, scales = (torch.tensor(values, dtype=torch.float64).to(like) for values in (offset, scale))
    return (x.to(like) - offsets) * scales


@lowering("Scaler", domain="ai.onnx.ml")
def _scaler(call: NodeCall) -> Tensor:
    """Its numbers are attributes, so that they are not trained."""
    offset, scale = (list(call.attribute(name, [default])) for name, default in (("offset", 0.0), ("scale", 1.0)))
    return scaler(call.tensor(0), offset, scale, call.floating)
