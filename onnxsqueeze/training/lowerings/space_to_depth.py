"""DepthToSpace and SpaceToDepth: blocks of pixels to channels and back."""

from __future__ import annotations

from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering


@leaf
def depth_to_space(data: Tensor, block: int, by_column: bool) -> Tensor:
    """Move channels into blocks of pixels; the channel axis is [block, block, C], or ``by_column`` [C, ...]."""
    images, channels, height, width = data.shape
    depth = channels // block**2
    if by_column:
        parts = data.reshape(images, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = data.reshape(images, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(images, depth, height * block, width * block)


@leaf
def space_to_depth(data: Tensor, block: int, by_column: bool) -> Tensor:
    """Move blocks of pixels into channels, the inverse of `depth_to_space`."""
    images, channels, height, width = data.shape
    parts = data.reshape(images, channels, height // block, block, width // block, block)
    parts = parts.permute(0, 1, 3, 5, 2, 4) if by_column else parts.permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(images, channels * block**2, height // block, width // block)


@lowering("DepthToSpace")
def _depth_to_space(call: NodeCall) -> Result:
    return depth_to_space(call.tensor(0), int(call.node.attributes["blocksize"]), _by_column(call))


@lowering("SpaceToDepth")
def _space_to_depth(call: NodeCall) -> Result:
    return space_to_depth(call.tensor(0), int(call.node.attributes["blocksize"]), _by_column(call))


def _by_column(call: NodeCall) -> bool:
    return str(call.node.attributes.get("mode", "DCR")) == "CRD"
