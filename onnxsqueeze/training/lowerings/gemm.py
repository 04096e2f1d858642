"""Gemm, and MatMul with a weight or of two activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering


@leaf
def weighted(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x @ weight`` for a matrix [rows, columns]; a trace is lowered to F.linear, which takes a bias too."""
    return torch.matmul(x, weight)


@lowering("MatMul")
def matmul(call: NodeCall) -> Tensor:
    """A product with a matrix is the same map of every vector."""
    left, right = call.tensors()
    if call.rank(1) == 2 and call.rank(0) >= 2 and call.is_floating(0):
        return weighted(left, right)
    return torch.matmul(left, right)


@lowering("Gemm")
def gemm(call: NodeCall) -> Tensor:
    """Y = alpha A' B' + beta C."""
    left, right, bias = call.tensor(0), call.tensor(1), call.operand(2)
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    if call.attribute("transA", 0):
        left = torch.transpose(left, 0, 1)
    if bias is not None and beta != 1.0:
        bias = torch.mul(bias, beta)
    rows = right if call.attribute("transB", 0) else torch.transpose(right, 0, 1)
    vector = call.rank(2) == 1 and call.shape(2) == (call.output_shape() or (None,))[-1:]
    if alpha == 1.0 and (bias is None or vector):
        return F.linear(left, rows, bias)
    product = torch.mul(F.linear(left, rows), alpha) if alpha != 1.0 else F.linear(left, rows)
    return product if bias is None else torch.add(product, bias)
