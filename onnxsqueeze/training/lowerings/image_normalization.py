"""Normalization of images by channel, by group, and of vectors: everything that is not over the last axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.graph.graph import PATTERN_DOMAIN
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

_DEVIATION_EPSILON = 1e-9  # of MeanVarianceNormalization's definition


@leaf
def group_norm(data: Tensor, scale: Tensor | None, bias: Tensor | None, groups: int, epsilon: float) -> Tensor:
    """Normalize [N, C, ...] over each of the groups of channels.

    Scale and bias have one entry for each channel, or one for all, in any shape.
    (Called below `F.group_norm`, which refuses groups of one element.)
    """
    vectors = [_by_channel(vector, data) for vector in (scale, bias)]
    return torch.group_norm(data, groups, vectors[0], vectors[1], epsilon, torch.backends.cudnn.enabled)


def _by_channel(vector: Tensor | None, data: Tensor) -> Tensor | None:
    if vector is None:
        return None
    return vector.reshape(-1).expand(data.shape[1])


@leaf
def instance_norm(data: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalize each channel of each image."""
    return group_norm(data, scale, bias, data.shape[1], epsilon)


@leaf
def lp_normalize(data: Tensor, axis: int, order: int) -> Tensor:
    """Divide by the norm along an axis; a vector of zeros stays one."""
    norm = torch.linalg.vector_norm(data, order, axis, keepdim=True)
    return data / torch.where(norm == 0, torch.ones_like(norm), norm)


@leaf
def local_response_norm(data: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """Divide each channel by a power of the sum of the squares of its neighbours."""
    squares = data.square().flatten(2).transpose(1, 2)  # [N, positions, C]
    before = (size - 1) // 2
    padded = F.pad(squares, (before, size - 1 - before))
    mean = F.avg_pool1d(padded, size, 1).transpose(1, 2).reshape(data.shape)
    return data / (bias + alpha * mean) ** beta


@leaf
def mean_variance_norm(data: Tensor, axes: list[int]) -> Tensor:
    """Subtract the mean over some axes and divide by the deviation."""
    centred = data - data.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + _DEVIATION_EPSILON)


@lowering("GroupNormalization", since=21)
@lowering("GroupNormalization", domain=PATTERN_DOMAIN)
def _group_normalization(call: NodeCall) -> Result:
    attributes = call.node.attributes
    groups, epsilon = int(attributes["num_groups"]), float(attributes.get("epsilon", 1e-5))
    return group_norm(call.tensor(0), call.operand(1), call.operand(2), groups, epsilon)


@lowering("InstanceNormalization", since=6)
def _instance_normalization(call: NodeCall) -> Result:
    epsilon = float(call.node.attributes.get("epsilon", 1e-5))
    return instance_norm(call.tensor(0), call.tensor(1), call.tensor(2), epsilon)


@lowering("LpNormalization")
def _lp_normalization(call: NodeCall) -> Result:
    attributes = call.node.attributes
    return lp_normalize(call.tensor(0), int(attributes.get("axis", -1)), int(attributes.get("p", 2)))


@lowering("LRN")
def _local_response_normalization(call: NodeCall) -> Result:
    attributes = call.node.attributes
    numbers = (float(attributes.get(key, default)) for key, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return local_response_norm(call.tensor(0), int(attributes["size"]), *numbers)


@lowering("MeanVarianceNormalization")
def _mean_variance_normalization(call: NodeCall) -> Result:
    axes = [int(axis) for axis in call.node.attributes.get("axes", (0, 2, 3))]
    return mean_variance_norm(call.tensor(0), axes)
