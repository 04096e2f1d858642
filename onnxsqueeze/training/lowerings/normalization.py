"""LayerNormalization, RMSNormalization and their kin over the last axes or one, also where exporters spelt them out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.graph.graph import OVER_CHANNELS, PATTERN_DOMAIN
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

_MICROSOFT = "com.microsoft"
_SKIP_EPSILON = 1e-12  # onnxruntime's default for the operators that add first


@leaf
def layer_norm(data: Tensor, scale: Tensor | None, bias: Tensor | None, axis: int, epsilon: float) -> Tensor:
    """Normalize over the axes from ``axis`` on; scale and bias broadcast against the data."""
    shape = data.shape[axis:]
    fits = scale is not None and scale.shape == shape and (bias is None or bias.shape == shape)
    if scale is None and bias is None:
        return F.layer_norm(data, shape, None, None, epsilon)
    if fits and scale is not None:
        return F.layer_norm(data, shape, scale.to(data.dtype), None if bias is None else bias.to(data.dtype), epsilon)
    return _scaled(F.layer_norm(data, shape, None, None, epsilon), scale, bias)


@leaf
def rms_norm(data: Tensor, scale: Tensor | None, axis: int, epsilon: float) -> Tensor:
    """Divide by the root of the mean square over the axes from ``axis`` on, half precision in float32."""
    shape = data.shape[axis:]
    if scale is not None and scale.shape == shape:
        return F.rms_norm(data, shape, scale.to(data.dtype), epsilon)
    return _scaled(F.rms_norm(data, shape, None, epsilon), scale, None)


@leaf
def channel_norm(
    data: Tensor, scale: Tensor | None, bias: Tensor | None, axis: int, epsilon: float, centred: bool
) -> Tensor:
    """Normalize over one axis alone, which scale and bias vary along; with ``centred`` around its mean."""
    last, parameters = data.movedim(axis, -1), [None if each is None else each.reshape(-1) for each in (scale, bias)]
    if centred:
        return layer_norm(last, parameters[0], parameters[1], -1, epsilon).movedim(-1, axis)
    return rms_norm(last, parameters[0], -1, epsilon).movedim(-1, axis)


@leaf
def layer_statistics(data: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the mean and the inverse deviation over the axes from ``axis`` on, in float32 at least.

    (Those that torch's own kernel returns carry no gradient.)
    """
    axes = _from(data, axis)
    wide = _widened(data)
    mean = wide.mean(axes, keepdim=True)
    return mean, torch.rsqrt((wide - mean).square().mean(axes, keepdim=True) + epsilon)


@leaf
def inverse_rms(data: Tensor, axis: int, epsilon: float) -> Tensor:
    """Return the inverse root mean square over the axes from ``axis`` on, in float32 at least."""
    return torch.rsqrt(_widened(data).square().mean(_from(data, axis), keepdim=True) + epsilon)


def _scaled(data: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    if scale is not None:
        data = data * scale.to(data.dtype)
    return data if bias is None else data + bias.to(data.dtype)


def _widened(data: Tensor) -> Tensor:
    return data.float() if data.dtype in (torch.float16, torch.bfloat16) else data


def _from(data: Tensor, axis: int) -> list[int]:
    return list(range(axis % data.ndim, data.ndim))


def _written(call: NodeCall, position: int) -> bool:
    return position < len(call.node.outputs) and bool(call.node.outputs[position])


@lowering("LayerNormalization")
@lowering("LayerNormalization", domain=PATTERN_DOMAIN)
def _layer_normalization(call: NodeCall) -> Result:
    axis, epsilon = _axis(call), _epsilon(call)
    data = call.tensor(0)
    result = layer_norm(data, call.operand(1), call.operand(2), axis, epsilon)
    if not (_written(call, 1) or _written(call, 2)):
        return result
    statistics = layer_statistics(data, axis, epsilon)
    return result, statistics[0], statistics[1]


@lowering("RMSNormalization")
@lowering("RMSNormalization", domain=PATTERN_DOMAIN)
@lowering("SimplifiedLayerNormalization")
@lowering("SimplifiedLayerNormalization", domain=_MICROSOFT)
def _rms_normalization(call: NodeCall) -> Result:
    axis, epsilon = _axis(call), _epsilon(call)
    result = rms_norm(call.tensor(0), call.operand(1), axis, epsilon)
    return (result, inverse_rms(call.tensor(0), axis, epsilon)) if _written(call, 1) else result


@lowering(OVER_CHANNELS["LayerNormalization"], domain=PATTERN_DOMAIN)
def _channel_layer_normalization(call: NodeCall) -> Result:
    return channel_norm(call.tensor(0), call.operand(1), call.operand(2), _axis(call), _epsilon(call), centred=True)


@lowering(OVER_CHANNELS["RMSNormalization"], domain=PATTERN_DOMAIN)
def _channel_rms_normalization(call: NodeCall) -> Result:
    return channel_norm(call.tensor(0), call.operand(1), None, _axis(call), _epsilon(call), centred=False)


@lowering("SkipLayerNormalization", domain=_MICROSOFT)
def _skip_layer_normalization(call: NodeCall) -> Result:
    epsilon = _epsilon(call, _SKIP_EPSILON)
    total = _summed(call, 4)
    result = layer_norm(total, call.operand(2), call.operand(3), -1, epsilon)
    statistics = layer_statistics(total, -1, epsilon)
    return result, statistics[0], statistics[1], total


@lowering("SkipSimplifiedLayerNormalization", domain=_MICROSOFT)
def _skip_rms_normalization(call: NodeCall) -> Result:
    epsilon = _epsilon(call, _SKIP_EPSILON)
    total = _summed(call, 3)
    result = rms_norm(total, call.operand(2), -1, epsilon)
    inverse = inverse_rms(total, -1, epsilon)
    return result, inverse, inverse, total  # onnxruntime writes no mean


def _summed(call: NodeCall, bias: int) -> Tensor:
    """Return the sum of the stream, the branch and perhaps a bias."""
    total, more = call.tensor(0) + call.tensor(1), call.operand(bias)
    return total if more is None else total + more


def _axis(call: NodeCall) -> int:
    return int(call.node.attributes.get("axis", -1))


def _epsilon(call: NodeCall, default: float = 1e-5) -> float:
    return float(call.node.attributes.get("epsilon", default))
