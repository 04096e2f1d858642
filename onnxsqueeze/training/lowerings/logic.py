"""Comparisons, logic, bits, and what chooses or limits elements."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not,
    "IsNaN": torch.isnan,
    "Where": torch.where,
}


@leaf
def clip(data: Tensor, low: Tensor | float | None, high: Tensor | float | None) -> Tensor:
    """Limit elements to a range; where its ends cross, the upper one holds."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        limits = [
            torch.as_tensor(limit, dtype=data.dtype, device=data.device) for limit in (low, high) if limit is not None
        ]
        return torch.clamp(data, limits[0] if low is not None else None, limits[-1] if high is not None else None)
    return data if low is None and high is None else torch.clamp(data, low, high)


@leaf
def is_infinite(data: Tensor, negative: bool, positive: bool) -> Tensor:
    """Return where elements are infinite, of the signs that count."""
    found = torch.zeros_like(data, dtype=torch.bool)
    if negative:
        found = found | torch.isneginf(data)
    return found | torch.isposinf(data) if positive else found


_SIGNED = {torch.uint8: torch.uint8, torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


@leaf
def shift_bits(data: Tensor, count: Tensor, left: bool) -> Tensor:
    """Shift bits of unsigned numbers, the larger of which torch can shift only as signed ones."""
    kind = _SIGNED[data.dtype]
    shift = torch.bitwise_left_shift if left else torch.bitwise_right_shift
    return shift(data.to(kind), count.to(kind)).to(data.dtype)


def _function(call: NodeCall) -> Result:
    return _FUNCTIONS[call.node.op](*call.tensors())


lowering(*_FUNCTIONS)(_function)


@lowering("Clip", until=10)
def _clip_by_attributes(call: NodeCall) -> Result:
    limits = (call.node.attributes.get(key) for key in ("min", "max"))
    return clip(call.tensor(0), *(None if limit is None else float(limit) for limit in limits))


@lowering("Clip", since=11, fixed=(1, 2))
def _clip(call: NodeCall) -> Result:
    return clip(call.tensor(0), _limit(call, 1), _limit(call, 2))


def _limit(call: NodeCall, position: int) -> Tensor | float | None:
    value = call.value(position)
    return call.operand(position) if value is None else _number(value)


def _number(value: Array) -> float:
    number: float = value.reshape(()).item()
    return number


@lowering("IsInf")
def _is_infinite(call: NodeCall) -> Result:
    signs = (bool(call.node.attributes.get(f"detect_{sign}", 1)) for sign in ("negative", "positive"))
    return is_infinite(call.tensor(0), *signs)


@lowering("BitShift")
def _bit_shift(call: NodeCall) -> Result:
    return shift_bits(call.tensor(0), call.tensor(1), call.node.attributes["direction"] == "LEFT")
