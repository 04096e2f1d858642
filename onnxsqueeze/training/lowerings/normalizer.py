"""Normalizer of ai.onnx.ml."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering

_ORDERS = {"L1": 1.0, "L2": 2.0}


@leaf
def normalizer(x: Tensor, order: float, like: Tensor) -> Tensor:
    """Return the rows of ``x``, along its last axis, divided by their norms of an order, in the type of ``like``."""
    rows = x.to(like)
    norms = torch.linalg.vector_norm(rows, order, dim=-1, keepdim=True)
    return rows / torch.where(norms == 0, torch.ones_like(norms), norms)


@lowering("Normalizer", domain="ai.onnx.ml")
def _normalizer(call: NodeCall) -> Tensor:
    """By the sum of magnitudes or by the length.

    Raises:
        UsageError: by the largest value, which onnxruntime does not take by magnitude.
    """
    norm = str(call.attribute("norm", "MAX"))
    if norm not in _ORDERS:
        raise UsageError(f"node '{call.node.label}': a Normalizer by the largest value cannot be trained")
    return normalizer(call.tensor(0), _ORDERS[norm], call.floating)
