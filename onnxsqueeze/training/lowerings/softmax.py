"""Softmax and its kin; before opset 13 over all axes from one on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering


@leaf
def hardmax(x: Tensor, dim: int) -> Tensor:
    """Return 1 at the first largest element, 0 elsewhere."""
    first = torch.argmax(x, dim=dim, keepdim=True)
    return torch.zeros_like(x).scatter(dim, first, torch.ones_like(first, dtype=x.dtype))


_FUNCTIONS: dict[str, Callable[..., Any]] = {"Softmax": F.softmax, "LogSoftmax": F.log_softmax, "Hardmax": hardmax}


@leaf
def over_flattened(op: str, x: Tensor, axis: int) -> Tensor:
    """Compute an operator over all axes from one on, taken as one."""
    start = axis % x.ndim if x.ndim else 0
    result: Tensor = _FUNCTIONS[op](x.flatten(start), dim=-1)
    return result.reshape(x.shape)


@lowering(*_FUNCTIONS)
def softmax(call: NodeCall) -> Tensor:
    """Over one axis, by default the last."""
    axis = int(call.attribute("axis", -1 if call.node.version >= 13 else 1))
    if call.node.version < 13 and axis not in (-1, call.rank(0) - 1):
        return over_flattened(call.node.op, call.tensor(0), axis)
    result: Tensor = _FUNCTIONS[call.node.op](call.tensor(0), dim=axis)
    return result
