"""Elementwise arithmetic on several tensors that broadcast against each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.fx
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering


def _pair(call: NodeCall) -> tuple[Tensor, Tensor]:
    """Return both operands, one of them as a number where it is a constant number."""
    left = call.scalar(0)
    return (left, call.scalar(1)) if isinstance(left, torch.fx.Proxy) else (left, call.tensor(1))


@lowering("Add")
def add(call: NodeCall) -> Tensor:
    """A sum. (torch.add takes a number second only.)"""
    left, right = _pair(call)
    return torch.add(right, left) if not isinstance(left, torch.fx.Proxy) else torch.add(left, right)


@lowering("Sub")
def sub(call: NodeCall) -> Tensor:
    """A difference."""
    left, right = _pair(call)
    return left - right


@lowering("Mul")
def mul(call: NodeCall) -> Tensor:
    """A product."""
    left, right = _pair(call)
    return left * right


@leaf
def integer_quotient(left: Tensor, right: Tensor) -> Tensor:
    """Return a quotient cut off towards zero."""
    return torch.div(left, right, rounding_mode="trunc")


@lowering("Div")
def div(call: NodeCall) -> Tensor:
    """A quotient; of integers it is cut off towards zero."""
    if not call.is_floating(0):
        return integer_quotient(call.tensor(0), call.tensor(1))
    left, right = _pair(call)
    return left / right


@leaf
def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Return a power in the type of its base."""
    return torch.pow(base, exponent).to(base.dtype)


@lowering("Pow")
def pow_form(call: NodeCall) -> Tensor:
    """A power; of the usual ones the faster spelling."""
    base, exponent = call.tensor(0), call.scalar(1)
    value = call.value(1) if call.is_floating(0) and not isinstance(exponent, torch.fx.Proxy) else None
    if value is not None and value.item() in (0.5, 2.0):
        return torch.sqrt(base) if value.item() == 0.5 else torch.square(base)
    return power(base, exponent)


@lowering("Mod")
def mod(call: NodeCall) -> Tensor:
    """A remainder with the sign of the divisor, or with ``fmod`` that of the dividend."""
    function = torch.fmod if call.attribute("fmod", 0) else torch.remainder
    result: Tensor = function(call.tensor(0), call.tensor(1))
    return result


@leaf
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Return x for positive x, else x times a slope that broadcasts against it."""
    return torch.where(x < 0, x * slope, x)


@lowering("PRelu")
def prelu_form(call: NodeCall) -> Tensor:
    """A leaky ReLU whose slopes are trained."""
    return prelu(call.tensor(0), call.tensor(1))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[NodeCall], Tensor]:
    def compute(call: NodeCall) -> Tensor:
        return reduce(function, call.tensors())

    return compute


_FOLDED: dict[str, Callable[..., Any]] = {"Sum": torch.add, "Min": torch.minimum, "Max": torch.maximum}

for _op, _function in _FOLDED.items():
    lowering(_op)(_folded(_function))


@lowering("Mean")
def mean(call: NodeCall) -> Tensor:
    """The mean of several tensors."""
    return reduce(torch.add, call.tensors()) / len(call.node.inputs)
