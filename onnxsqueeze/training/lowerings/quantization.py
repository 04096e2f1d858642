"""Codes in training: real numbers that are rounded as their codes are, with gradients as if they were not.

What a file stores as codes is trained as the real numbers that they stand for; activations that are encoded go on as
whole numbers in floating point. Rounding hands gradients straight through (Bengio et al. 2013, arXiv 1308.3432), and
beyond the last code there is none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.rules.codes import limits
from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering

_DOMAINS = ("", "com.microsoft")
_FIXED = (1, 2)  # scale and zero point


def straight(x: Tensor) -> Tensor:
    """Round half to even, with the gradient of x."""
    return x + (torch.round(x) - x).detach()


@leaf
def encoded(x: Tensor, scale: Tensor, zero: Tensor | None, least: int, most: int) -> Tensor:
    """Return the codes of real numbers, as whole numbers in floating point."""
    steps = x / torch.where(scale == 0, torch.ones_like(scale), scale)
    return straight(torch.clamp(steps if zero is None else steps + zero.to(x.dtype), least, most))


@leaf
def decoded(codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Return the real numbers that codes stand for, in the type of the scale."""
    real = codes.to(scale.dtype)
    return (real if zero is None else real - zero.to(scale.dtype)) * scale


@leaf
def along(numbers: Tensor, axis: int, block: int, shape: Any) -> Tensor:
    """Return scales or zero points so that they broadcast against a tensor of a shape."""
    rank = len(shape)
    if numbers.numel() == 1:
        return numbers.reshape(())
    if block:
        return numbers.repeat_interleave(block, axis).narrow(axis, 0, shape[axis])
    return numbers.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))


def _numbers(call: NodeCall, position: int) -> Tensor | None:
    if not call.has(position):
        return None
    axis, block = int(call.attribute("axis", 1)) % max(1, call.rank(0)), int(call.attribute("block_size", 0))
    return along(call.tensor(position), axis, block, call.tensor(0).shape)


def _limits(call: NodeCall, data_type: int | None) -> tuple[int, int]:
    found = None if data_type is None else limits(tensor_dtype_to_np_dtype(data_type))
    if found is None:
        raise UsageError(f"node '{call.node.label}': codes that are no whole numbers cannot be trained")
    return found


def _scale(call: NodeCall) -> Tensor:
    scale = _numbers(call, 1)
    assert scale is not None
    return scale


for _domain in _DOMAINS:

    @lowering("QuantizeLinear", domain=_domain, fixed=_FIXED)
    def quantize(call: NodeCall) -> Tensor:
        """Round to codes, which stay in floating point."""
        return encoded(call.tensor(0), _scale(call), _numbers(call, 2), *_limits(call, call.output_dtype()))

    @lowering("DequantizeLinear", domain=_domain, fixed=_FIXED)
    def dequantize(call: NodeCall) -> Tensor:
        """Decode codes; of a trained tensor, which holds the real numbers, what they are rounded to."""
        scale, zero, x = _scale(call), _numbers(call, 2), call.tensor(0)
        if call.is_trained(0):
            x = encoded(x, scale, zero, *_limits(call, call.dtype(0)))
        return decoded(x, scale, zero)


@leaf
def measured(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes of uint8 as whole numbers in floating point, the scale that spans x and 0, and the code of 0."""
    most, least = torch.clamp(x.amax(), min=0), torch.clamp(x.amin(), max=0)
    span = (most - least) / 255
    scale = torch.where(span == 0, torch.ones_like(span), span)
    zero = torch.round(torch.clamp(-least / scale, 0, 255)).detach()
    return straight(torch.clamp(x / scale + zero, 0, 255)), scale, zero


@lowering("DynamicQuantizeLinear")
def dynamic(call: NodeCall) -> tuple[Tensor, ...]:
    """Codes by a scale that is measured."""
    found = measured(call.tensor(0))
    return found[0], found[1], found[2]


@leaf
def packed(
    x: Tensor,
    blocks: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    order: Tensor | None,
    bits: int,
    size: int,
    columns: int,
) -> Tensor:
    """Multiply by rows of codes that share bytes, [N, blocks, bytes of a block]; see the rule of MatMulNBits."""
    rows, count = blocks.shape[:2]
    codes = unpacked(blocks, bits).reshape(rows, -1)[:, :columns].to(scales.dtype)
    groups = torch.arange(columns, device=x.device) // size if order is None else order[:columns].long()
    if zeros is None:
        middle = torch.full((rows, count), float(1 << (bits - 1)), dtype=scales.dtype, device=x.device)
    elif zeros.dtype == torch.uint8:
        middle = unpacked(zeros.reshape(rows, -1), bits)[:, :count].to(scales.dtype)
    else:
        middle = zeros.reshape(rows, count)
    return F.linear(x, ((codes - middle[:, groups]) * scales.reshape(rows, count)[:, groups]).to(x.dtype))


def unpacked(array: Tensor, bits: int) -> Tensor:
    """Return the codes in bytes along the last axis, the first one in the lowest bits."""
    shifts = torch.arange(0, 8, bits, device=array.device, dtype=torch.int32)
    codes = (array.to(torch.int32).unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    return codes.reshape(*array.shape[:-1], -1)


@lowering("MatMulNBits", domain="com.microsoft", fixed=(1, 2, 3, 4))
def product(call: NodeCall) -> Tensor:
    """A product with packed weights, which are not trained."""
    bits, size, columns = (int(call.attribute(name, 4)) for name in ("bits", "block_size", "K"))
    others = call.operand(3), call.operand(4), bits, size, columns
    found = packed(call.tensor(0), call.tensor(1), call.tensor(2), *others)
    return found + call.tensor(5) if call.has(5) else found


@leaf
def table(codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, block: int, middle: int) -> Tensor:
    """Decode a table of codes, [rows, columns], in blocks along its rows; ``bits`` is 0 where none share a byte."""
    whole = unpacked(codes, bits) if bits else codes
    if zeros is None:
        starts = torch.full_like(scales, float(middle))
    else:
        starts = (unpacked(zeros, bits)[:, : scales.shape[1]] if bits else zeros).to(scales.dtype)
    spread = [numbers.repeat_interleave(block, 1)[:, : whole.shape[1]] for numbers in (scales, starts)]
    return (whole.to(scales.dtype) - spread[1]) * spread[0]


@lowering("GatherBlockQuantized", domain="com.microsoft", fixed=(2, 3))
def looked_up(call: NodeCall) -> Tensor:
    """Rows of a packed table, which is not trained."""
    if int(call.attribute("gather_axis", 0)) % 2 or int(call.attribute("quantize_axis", 1)) % 2 != 1:
        raise UsageError(f"node '{call.node.label}': GatherBlockQuantized along other axes cannot be trained")
    bits, shared = int(call.attribute("bits", 4)), call.dtype(0) == TensorProto.UINT8
    least, most = (0, (1 << bits) - 1) if shared else _limits(call, call.dtype(0))
    middle = 0 if least < 0 else (most + 1) // 2
    numbers = call.tensor(2), call.operand(3), bits if shared and bits < 8 else 0
    return F.embedding(
        call.tensor(1).long(), table(call.tensor(0), *numbers, int(call.attribute("block_size", 128)), middle)
    )
