"""GELU and products with transposed operands, as onnxruntime's optimizers write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, lowering

_MICROSOFT = "com.microsoft"
_SLOPE = 1.702  # QuickGelu's default


@lowering("Gelu", domain=_MICROSOFT)
def gelu(call: NodeCall) -> Tensor:
    """By the error function."""
    return F.gelu(call.tensor(0))


@lowering("FastGelu", domain=_MICROSOFT)
def fast_gelu(call: NodeCall) -> Tensor:
    """By the hyperbolic tangent, of the sum with a bias if there is one."""
    bias = call.operand(1)
    return F.gelu(call.tensor(0) if bias is None else torch.add(call.tensor(0), bias), approximate="tanh")


@lowering("QuickGelu", domain=_MICROSOFT)
def quick_gelu(call: NodeCall) -> Tensor:
    """``x`` times the sigmoid of ``alpha x``."""
    x = call.tensor(0)
    return torch.mul(x, torch.sigmoid(torch.mul(x, float(call.attribute("alpha", _SLOPE)))))


@lowering("FusedMatMul", domain=_MICROSOFT)
def fused_matmul(call: NodeCall) -> Tensor:
    """Alpha times the product; each operand's rows and columns may stand before its batch, and be swapped."""
    left, right = (_operand(call, position, call.tensor(position)) for position in (0, 1))
    product, alpha = torch.matmul(left, right), float(call.attribute("alpha", 1.0))
    return product if alpha == 1.0 else torch.mul(product, alpha)


def _operand(call: NodeCall, position: int, tensor: Tensor) -> Tensor:
    rank, side = call.rank(position), "AB"[position]
    if rank > 2 and call.attribute(f"transBatch{side}", 0):
        tensor = torch.movedim(tensor, 0, rank - 2)
    return torch.transpose(tensor, rank - 2, rank - 1) if rank > 1 and call.attribute(f"trans{side}", 0) else tensor
