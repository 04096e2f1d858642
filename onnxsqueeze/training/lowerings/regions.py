"""RoiAlign, CenterCropPad and Compress: parts of a tensor, chosen by numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering

_HALF_PIXEL_BY_DEFAULT = 16  # the opset since which regions are moved by half a pixel unless a node says otherwise


@leaf
def roi_align(
    images: Tensor, regions: Tensor, numbers: Tensor, size: tuple[int, int], scale: float, ratio: int, half: bool
) -> Tensor:
    """Return means over interpolated places [regions, C, *size] of images [N, C, H, W].

    Args:
        images: any floating type. regions: [regions, 4], as x1, y1, x2, y2. numbers: [regions], of the images.
        size: of the output. scale: from the regions' units to pixels.
        ratio: places along each axis of a bin, 0 for as many as it has pixels.
        half: whether pixels have their centres at halves.
    """
    parts = [
        _aligned(images[int(number)], region, size, scale, ratio, half)
        for region, number in zip(regions, numbers, strict=True)
    ]
    return torch.stack(parts) if parts else images.new_zeros((0, images.shape[1], *size))


def _aligned(image: Tensor, region: Tensor, size: tuple[int, int], scale: float, ratio: int, half: bool) -> Tensor:
    x1, y1, x2, y2 = (region * scale - (0.5 if half else 0.0)).unbind()
    weights = [
        _weights(start, end, bins, length, ratio, half)
        for start, end, bins, length in ((y1, y2, size[0], image.shape[1]), (x1, x2, size[1], image.shape[2]))
    ]
    return torch.einsum("chw,ph,qw->cpq", image, *weights)


def _weights(start: Tensor, end: Tensor, bins: int, length: int, ratio: int, half: bool) -> Tensor:
    """Return by how much each pixel along one axis counts in each bin, [bins, length]."""
    extent = end - start if half else (end - start).clamp(min=1.0)
    count = ratio if ratio > 0 else max(0, math.ceil(float(extent) / bins))
    steps = (torch.arange(count, device=start.device) + 0.5) / max(count, 1)
    places = start + (torch.arange(bins, device=start.device)[:, None] + steps) * extent / bins
    inside = (places >= -1.0) & (places <= length)
    places = places.clamp(0.0, length - 1.0)
    tents = (1.0 - (places[..., None] - torch.arange(length, device=start.device)).abs()).clamp(min=0.0)
    return (tents * inside[..., None]).sum(1) / max(count, 1)


@lowering("RoiAlign", since=10)
def _roi_align(call: NodeCall) -> Tensor:
    """Raises UsageError for maxima, of which runtimes have several definitions."""
    if call.attribute("mode", "avg") != "avg":
        raise UsageError(f"node '{call.node.label}': RoiAlign in mode 'max' cannot be trained")
    default = "half_pixel" if call.node.version >= _HALF_PIXEL_BY_DEFAULT else "output_half_pixel"
    half = call.attribute("coordinate_transformation_mode", default) == "half_pixel"
    size = (int(call.attribute("output_height", 1)), int(call.attribute("output_width", 1)))
    scale, ratio = float(call.attribute("spatial_scale", 1.0)), int(call.attribute("sampling_ratio", 0))
    return roi_align(call.tensor(0), call.tensor(1), call.tensor(2), size, scale, ratio, half)


@leaf
def center_crop_pad(x: Tensor, sizes: list[int], axes: list[int]) -> Tensor:
    """Crop or pad with zeros to sizes along some axes; of an odd difference the end gets more."""
    for axis, size in zip(axes, sizes, strict=True):
        excess = x.shape[axis] - int(size)
        if excess > 0:
            x = x.narrow(axis, excess // 2, int(size))
        elif excess < 0:
            before = -excess // 2
            x = F.pad(x, [0, 0] * (x.ndim - 1 - axis % x.ndim) + [before, -excess - before])
    return x


@lowering("CenterCropPad", since=18)
def _center_crop_pad(call: NodeCall) -> Tensor:
    """Raises UsageError where it is not known how many sizes there are."""
    sizes = call.numbers(1)
    if sizes is None:
        raise UsageError(f"node '{call.node.label}': CenterCropPad to a shape that is not known cannot be trained")
    return center_crop_pad(call.tensor(0), sizes, list(call.attribute("axes") or range(call.rank(0))))


@leaf
def compress(x: Tensor, condition: Tensor, axis: int | None) -> Tensor:
    """Return the slices along an axis, else the elements, where a condition holds; what it is too short for is left."""
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


@lowering("Compress", since=9)
def _compress(call: NodeCall) -> Tensor:
    """Slices by a condition."""
    axis = call.attribute("axis")
    return compress(call.tensor(0), call.tensor(1), None if axis is None else int(axis))
