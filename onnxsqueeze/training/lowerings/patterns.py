"""GELU, SiLU and the guarded softmax where an exporter spelt them out, each as one call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.graph.graph import GUARDED, PATTERN_DOMAIN
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


@lowering(GUARDED, domain=PATTERN_DOMAIN)
def _guarded_softmax(call: NodeCall) -> Result:
    return guarded_softmax(call.tensor(0), int(call.node.attributes.get("axis", -1)))


@lowering("Gelu", domain=PATTERN_DOMAIN)
def _gelu(call: NodeCall) -> Result:
    return gelu(call.tensor(0), str(call.node.attributes.get("approximate", "none")))


@lowering("Swish", domain=PATTERN_DOMAIN)
def _swish(call: NodeCall) -> Result:
    return swish(call.tensor(0), float(call.node.attributes.get("alpha", 1.0)))
