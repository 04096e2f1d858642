"""Elementwise functions of one tensor, Cast and Dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from onnxsqueeze.training.lowerings.quantization import straight
from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering


def _leaky_relu(call: NodeCall) -> Tensor:
    return F.leaky_relu(call.tensor(0), float(call.attribute("alpha", 0.01)))


def _thresholded_relu(call: NodeCall) -> Tensor:
    return F.threshold(call.tensor(0), float(call.attribute("alpha", 1.0)), 0.0)


def _hard_sigmoid(call: NodeCall) -> Tensor:
    scaled = call.tensor(0) * float(call.attribute("alpha", 0.2)) + float(call.attribute("beta", 0.5))
    return torch.clamp(scaled, 0.0, 1.0)


def _elu(call: NodeCall) -> Tensor:
    return F.elu(call.tensor(0), float(call.attribute("alpha", 1.0)))


def _celu(call: NodeCall) -> Tensor:
    return F.celu(call.tensor(0), float(call.attribute("alpha", 1.0)))


_SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # the defaults, which torch's selu has built in


@leaf
def scaled_elu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return gamma x for positive x, else gamma alpha (e^x - 1)."""
    return gamma * F.elu(x, alpha)


def _selu(call: NodeCall) -> Tensor:
    alpha, gamma = float(call.attribute("alpha", _SELU[0])), float(call.attribute("gamma", _SELU[1]))
    return F.selu(call.tensor(0)) if (alpha, gamma) == _SELU else scaled_elu(call.tensor(0), alpha, gamma)


def _gelu(call: NodeCall) -> Tensor:
    return F.gelu(call.tensor(0), approximate=str(call.attribute("approximate", "none")))


def _swish(call: NodeCall) -> Tensor:
    x, alpha = call.tensor(0), float(call.attribute("alpha", 1.0))
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@leaf
def shrink(x: Tensor, bias: float, threshold: float) -> Tensor:
    """Return x + bias below -threshold, x - bias above threshold, 0 between them."""
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, zero))


def _shrink(call: NodeCall) -> Tensor:
    return shrink(call.tensor(0), float(call.attribute("bias", 0.0)), float(call.attribute("lambd", 0.5)))


_WITH_ATTRIBUTES: dict[str, Callable[[NodeCall], Tensor]] = {
    "LeakyRelu": _leaky_relu,
    "ThresholdedRelu": _thresholded_relu,
    "HardSigmoid": _hard_sigmoid,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Gelu": _gelu,
    "Swish": _swish,
    "Shrink": _shrink,
}

_PLAIN: dict[str, Callable[..., Any]] = {
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "HardSwish": F.hardswish,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Mish": F.mish,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Ceil": torch.ceil,
    "Floor": torch.floor,
    "Round": torch.round,  # halves to even, in both
    "Sign": torch.sign,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
}


def _plain(function: Callable[..., Any]) -> Callable[[NodeCall], Tensor]:
    def compute(call: NodeCall) -> Tensor:
        result: Tensor = function(call.tensor(0))
        return result

    return compute


for _op, _compute in {**{op: _plain(function) for op, function in _PLAIN.items()}, **_WITH_ATTRIBUTES}.items():
    lowering(_op)(_compute)


@lowering("Identity")
def identity(call: NodeCall) -> Tensor:
    """Another name for the same tensor."""
    return call.tensor(0)


@lowering("Cast")
def cast(call: NodeCall) -> Tensor:
    """A change of type; between floating types of up to 32 bits there is none (see `NodeCall.cast`).

    Whole numbers that ConvInteger and MatMulInteger add up stay in floating point, like the codes that they read, so
    that gradients pass.
    """
    if call.counts(0) and int(call.attribute("to")) == TensorProto.INT32:
        return straight(call.tensor(0))
    return call.cast(call.tensor(0), int(call.attribute("to")), call.dtype(0))


@lowering("CastLike", fixed=(1,))
def cast_like(call: NodeCall) -> Tensor:
    """A change to the type of another tensor."""
    target = call.dtype(1)
    return call.tensor(0) if target is None else call.cast(call.tensor(0), target, call.dtype(0))


@leaf
def dropout(x: Tensor, ratio: float, training: bool) -> Tensor:
    """Zero elements at random in training mode."""
    return F.dropout(x, ratio, training) if training and ratio else x


@lowering("Dropout", since=7, fixed=(1, 2))
def dropout_form(call: NodeCall) -> Tensor:
    """The file's ratio, in force while the module is in training mode. There is no output for the mask."""
    ratio = call.value(1)
    given = 0.5 if ratio is None else float(ratio.item())
    return dropout(call.tensor(0), float(call.attribute("ratio", given)), call.training)
