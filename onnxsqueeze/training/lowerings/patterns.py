"""GELU, SiLU, guarded softmax and global response normalization where an exporter spelt them out, each as one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.graph.graph import GUARDED, PATTERN_DOMAIN, RESPONSE_NORM
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering


@leaf
def guarded_softmax(scores: Tensor, axis: int) -> Tensor:
    """Return a softmax, zeros where it would be NaN; neither those rows nor their gradients become NaN."""
    undefined = ~torch.isfinite(scores.detach().amax(axis, keepdim=True))
    return torch.softmax(scores.masked_fill(undefined, 0.0), axis).masked_fill(undefined, 0.0)


@leaf
def gelu(data: Tensor, approximate: str) -> Tensor:
    """Return the GELU, exact ("none") or by the hyperbolic tangent ("tanh")."""
    return F.gelu(data, approximate=approximate)


@leaf
def swish(data: Tensor, alpha: float) -> Tensor:
    """Return x times the sigmoid of alpha x."""
    return F.silu(data) if alpha == 1.0 else data * torch.sigmoid(alpha * data)


@leaf
def response_norm(
    data: Tensor, weight: Tensor, bias: Tensor, axis: int, space: Sequence[int], epsilon: float
) -> Tensor:
    """Scale each channel by its norm over space, relative to the mean of all channels' norms along an axis."""
    norm: Tensor = torch.linalg.vector_norm(data, dim=tuple(space), keepdim=True)
    ratio = norm / (norm.mean(axis, keepdim=True) + epsilon)
    return data + bias.to(data.dtype) + weight.to(data.dtype) * (data * ratio)


@lowering(GUARDED, domain=PATTERN_DOMAIN)
def _guarded_softmax(call: NodeCall) -> Result:
    return guarded_softmax(call.tensor(0), int(call.node.attributes.get("axis", -1)))


@lowering("Gelu", domain=PATTERN_DOMAIN)
def _gelu(call: NodeCall) -> Result:
    return gelu(call.tensor(0), str(call.node.attributes.get("approximate", "none")))


@lowering("Swish", domain=PATTERN_DOMAIN)
def _swish(call: NodeCall) -> Result:
    return swish(call.tensor(0), float(call.node.attributes.get("alpha", 1.0)))


@lowering(RESPONSE_NORM, domain=PATTERN_DOMAIN)
def _response_norm(call: NodeCall) -> Result:
    given = call.node.attributes
    axis, space, epsilon = int(given["axis"]), [int(axis) for axis in given["space"]], float(given["epsilon"])
    return response_norm(call.tensor(0), call.tensor(1), call.tensor(2), axis, space, epsilon)
