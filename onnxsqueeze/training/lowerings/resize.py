"""Resize and Upsample: one axis after the other, each output position a weighted sum of input positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.numbers import numbers
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering


@dataclass(frozen=True)
class Sampling:
    """How Resize interpolates: its attributes, under their names there."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coefficient: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False
    extrapolation_value: float = 0.0


@leaf
def resize(
    data: Tensor,
    sizes: Sequence[int] | None,
    scales: Sequence[float] | Tensor | None,
    axes: Sequence[int] | None,
    policy: str,
    regions: Sequence[float] | Tensor | None,
    sampling: tuple[str, str, str, float, bool, bool, float],
) -> Tensor:
    """Resize some axes to given sizes, or by given scales.

    Args:
        data: floating-point, or integers of any type with mode "nearest".
        sizes, scales: one of the two, an entry for each of ``axes``, all axes if None.
        policy: ``keep_aspect_ratio_policy``, for sizes.
        regions: starts, then ends of what tf_crop_and_resize takes of each axis.
        sampling: the fields of a `Sampling`.
    """
    chosen = list(range(data.ndim)) if axes is None else [axis % data.ndim for axis in axes]
    way = Sampling(*sampling)
    factors = scales.tolist() if isinstance(scales, Tensor) else scales
    lengths = [data.shape[axis] for axis in chosen]
    if sizes is not None:
        wanted, factors = _by_policy(list(sizes), lengths, policy)
    else:
        assert factors is not None
        wanted = [math.floor(length * factor) for length, factor in zip(lengths, factors, strict=True)]
    cropped = way.coordinates == "tf_crop_and_resize" and regions is not None
    spans = regions.tolist() if isinstance(regions, Tensor) else list(regions or ())
    regular = None if cropped else _by_kernel(data, chosen, wanted, factors, way)
    if regular is not None:
        return regular
    for place, (axis, size, factor) in enumerate(zip(chosen, wanted, factors, strict=True)):
        region = (spans[place], spans[place + len(chosen)]) if cropped else (0.0, 1.0)
        if cropped or size != data.shape[axis] or factor != 1:
            data = _resize_axis(data, axis, size, factor, region, way)
    return data


def _by_policy(sizes: list[int], lengths: list[int], policy: str) -> tuple[list[int], list[float]]:
    factors = [size / length for size, length in zip(sizes, lengths, strict=True)]
    if policy == "stretch":
        return sizes, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(length * factor + 0.5) for length in lengths], [factor] * len(factors)


def _by_kernel(
    data: Tensor, axes: Sequence[int], sizes: Sequence[int], factors: Sequence[float], way: Sampling
) -> Tensor | None:
    """NodeCall torch's own interpolation where it gives the same: whole factors, or exact quotients of sizes."""
    target = list(data.shape)
    for axis, size in zip(axes, sizes, strict=True):
        target[axis] = size
    lengths, space = data.shape[2:], target[2:]
    if data.ndim not in (3, 4, 5) or tuple(target[:2]) != tuple(data.shape[:2]) or not data.is_floating_point():
        return None
    if way.antialias or any(
        abs(data.shape[axis] * f - size) > 1e-6 for axis, size, f in zip(axes, sizes, factors, strict=True)
    ):
        return None
    whole = all(size % length == 0 for size, length in zip(space, lengths, strict=True))
    if way.mode == "nearest" and whole and _repeats(way):
        return F.interpolate(data, space, mode="nearest")
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[data.ndim]
    if way.mode != "linear" or 1 in space:
        return None
    if way.coordinates in ("half_pixel", "pytorch_half_pixel"):
        return F.interpolate(data, space, mode=mode, align_corners=False)
    return F.interpolate(data, space, mode=mode, align_corners=True) if way.coordinates == "align_corners" else None


def _repeats(way: Sampling) -> bool:
    """Whether each element is repeated as often as a whole factor says."""
    if way.coordinates == "asymmetric":
        return way.nearest_mode == "floor"
    return way.coordinates in ("half_pixel", "pytorch_half_pixel") and way.nearest_mode.startswith("round")


def _resize_axis(
    data: Tensor, axis: int, size: int, factor: float, region: tuple[float, float], way: Sampling
) -> Tensor:
    length = data.shape[axis]
    places = _coordinates(torch.arange(size, dtype=torch.float64), size, length, factor, region, way.coordinates)
    outside = (places < 0) | (places > length - 1)
    if way.mode == "nearest":
        result = data.index_select(axis, _nearest(places, way.nearest_mode).clamp(0, length - 1).to(data.device))
    else:
        matrix = _matrix(places, length, factor, way).to(data.device, data.dtype)
        result = torch.tensordot(data, matrix, dims=([axis], [1])).movedim(-1, axis)
    if way.coordinates == "tf_crop_and_resize" and outside.any():
        shape = [-1 if other == axis else 1 for other in range(data.ndim)]
        result = result.masked_fill(outside.reshape(shape).to(data.device), way.extrapolation_value)
    return result


def _coordinates(
    places: Tensor, size: int, length: int, factor: float, region: tuple[float, float], kind: str
) -> Tensor:
    """Return where output positions lie in the input (ONNX, Resize, coordinate_transformation_mode)."""
    if kind == "align_corners":
        return places * (length - 1) / (size - 1) if size > 1 else places * 0.0
    if kind == "asymmetric":
        return places / factor
    if kind == "pytorch_half_pixel" and size <= 1:
        return places * 0.0
    if kind == "half_pixel_symmetric":
        adjustment = size / (factor * length)
        return length / 2 * (1 - adjustment) + (places + 0.5) / factor - 0.5
    if kind == "tf_half_pixel_for_nn":
        return (places + 0.5) / factor
    if kind == "tf_crop_and_resize":
        start, end = region
        if size > 1:
            return start * (length - 1) + places * (end - start) * (length - 1) / (size - 1)
        return places * 0.0 + 0.5 * (start + end) * (length - 1)
    return (places + 0.5) / factor - 0.5


def _nearest(places: Tensor, mode: str) -> Tensor:
    if mode == "floor":
        return places.floor().long()
    if mode == "ceil":
        return places.ceil().long()
    if mode == "round_prefer_ceil":
        return (places + 0.5).floor().long()
    return (places - 0.5).ceil().long()


def _matrix(places: Tensor, length: int, factor: float, way: Sampling) -> Tensor:
    """Return the weight of each input position in each output position [size, length], float64.

    Positions beyond an edge count as the edge itself, or not at all with ``exclude_outside``.
    """
    stretch = min(factor, 1.0) if way.antialias else 1.0
    reach = math.ceil((2 if way.mode == "cubic" else 1) / stretch)
    taps = torch.arange(1 - reach, reach + 1)
    sources = places.floor().long()[:, None] + taps
    distance = (places[:, None] - sources) * stretch
    weights = (
        _cubic(distance.abs(), way.cubic_coefficient) if way.mode == "cubic" else (1 - distance.abs()).clamp(min=0)
    )
    inside = (sources >= 0) & (sources < length)
    if way.exclude_outside:
        weights = weights * inside
    if way.exclude_outside or way.antialias:
        weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(len(places), length, dtype=torch.float64)
    return matrix.scatter_add(1, sources.clamp(0, length - 1), weights)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Return Keys' cubic convolution kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


@lowering("Resize", since=11, fixed=(1, 2))
def _resize(call: NodeCall) -> Result:
    attributes = call.node.attributes
    sizes = numbers(call, 3) if call.node.input(3) else None
    axes = [int(axis) for axis in attributes["axes"]] if "axes" in attributes else None
    return resize(
        call.tensor(0),
        sizes,
        _factors(call, 2) if sizes is None else None,
        axes,
        str(attributes.get("keep_aspect_ratio_policy", "stretch")),
        _factors(call, 1),
        _sampling(call),
    )


def _sampling(call: NodeCall) -> tuple[str, str, str, float, bool, bool, float]:
    attributes, default = call.node.attributes, Sampling()
    return (
        str(attributes.get("mode", default.mode)),
        str(attributes.get("coordinate_transformation_mode", default.coordinates)),
        str(attributes.get("nearest_mode", default.nearest_mode)),
        float(attributes.get("cubic_coeff_a", default.cubic_coefficient)),
        bool(attributes.get("antialias", 0)),
        bool(attributes.get("exclude_outside", 0)),
        float(attributes.get("extrapolation_value", 0.0)),
    )


@lowering("Upsample", fixed=(1,))
@lowering("Resize", until=10, fixed=(1,))
def _upsample(call: NodeCall) -> Result:
    """Scales came as an attribute, then as an input; positions were not centred, and the nearest was below."""
    attributes = call.node.attributes
    scales = [float(scale) for scale in attributes["scales"]] if "scales" in attributes else _factors(call, 1)
    mode = str(attributes.get("mode", "nearest"))
    sampling = (mode if mode == "nearest" else "linear", "asymmetric", "floor", -0.75, False, False, 0.0)
    return resize(call.tensor(0), None, scales, None, "stretch", None, sampling)


def _factors(call: NodeCall, position: int) -> Tensor | list[float] | None:
    """Return the entries of a floating-point input, at run time where they are computed; None where it is empty."""
    if not call.node.input(position):
        return None
    value = call.value(position)
    if value is None:
        return call.operand(position)
    return [float(entry) for entry in value.ravel()] if value.size else None
