"""DFT, STFT and MelWeightMatrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.numbers import number
from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering

_AXIS_AS_INPUT = 20  # the opset since which the axis of a DFT is an input


@leaf
def dft(x: Tensor, axis: int, length: int | None, inverse: bool, onesided: bool) -> Tensor:
    """Transform [..., 1] or [..., 2], real and imaginary parts last, along an axis cut or padded to a length."""
    axis = axis % x.ndim
    if onesided:
        return torch.view_as_real(torch.fft.rfft(x[..., 0], length, dim=axis))
    values = torch.complex(x[..., 0], torch.zeros_like(x[..., 0]) if x.shape[-1] == 1 else x[..., 1])
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(values, length, dim=axis))


@lowering("DFT", since=17)
def _dft(call: NodeCall) -> Tensor:
    """Raises UsageError for a computed axis, and for the inverse of one half of a spectrum."""
    inverse, onesided = bool(call.attribute("inverse", 0)), bool(call.attribute("onesided", 0))
    if inverse and onesided:
        raise UsageError(f"node '{call.node.label}': a DFT both inverse and one-sided cannot be trained")
    if call.node.version < _AXIS_AS_INPUT:
        axis = int(call.attribute("axis", 1))
    else:
        given = call.integers(2) if call.has(2) else [-2]
        if given is None:
            raise UsageError(f"node '{call.node.label}': a DFT along a computed axis cannot be trained")
        axis = given[0]
    return dft(call.tensor(0), axis, number(call, 1) if call.has(1) else None, inverse, onesided)


@leaf
def stft(signal: Tensor, step: int, window: Tensor | None, length: int, onesided: bool) -> Tensor:
    """Transform frames of a signal [N, time, 1 or 2], each times a window; [N, frames, frequencies, 2]."""
    frames = signal.unfold(1, length, step).movedim(-1, 2)
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    return dft(frames, 2, None, False, onesided)


@lowering("STFT", since=17)
def _stft(call: NodeCall) -> Tensor:
    """A window is as long as a frame."""
    sizes = call.sizes(2)
    length = number(call, 3) if call.has(3) else None if sizes is None else sizes[0]
    if length is None:
        raise UsageError(f"node '{call.node.label}': STFT with frames of unknown length cannot be trained")
    onesided = bool(call.attribute("onesided", 1))
    return stft(call.tensor(0), number(call, 1), call.operand(2), length, onesided)


@leaf
def mel_weights(bins: int, length: int, rate: int, low: float, high: float, like: Tensor) -> Tensor:
    """Return triangles over frequencies, equally wide on the mel scale, [length / 2 + 1, bins]."""
    mels = [2595 * math.log10(1 + edge / 700) for edge in (low, high)]
    points = mels[0] + torch.arange(bins + 2, dtype=torch.float64) * (mels[1] - mels[0]) / (bins + 2)
    corners = ((length + 1) * 700 * (10 ** (points / 2595) - 1) / rate).floor().long().tolist()
    matrix = torch.zeros(length // 2 + 1, bins, dtype=torch.float64)
    for place, (start, centre, end) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        if start == centre:
            matrix[centre, place] = 1
        else:
            matrix[start : centre + 1, place] = torch.arange(centre - start + 1) / (centre - start)
        if end > centre:
            matrix[centre:end, place] = torch.arange(end - centre, 0, -1) / (end - centre)
    return matrix.to(like)


@lowering("MelWeightMatrix", since=17, fixed=(1, 2, 3, 4))
def _mel_weights(call: NodeCall) -> Tensor:
    """Raises UsageError where its numbers are computed."""
    values = [call.value(position) for position in range(5)]
    if any(value is None for value in values):
        raise UsageError(f"node '{call.node.label}': MelWeightMatrix of computed numbers cannot be trained")
    bins, length, rate = (int(value.item()) for value in values[:3] if value is not None)
    low, high = (float(value.item()) for value in values[3:] if value is not None)
    return mel_weights(bins, length, rate, low, high, call.floating)
