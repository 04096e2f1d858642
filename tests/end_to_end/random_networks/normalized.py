"""Normalisations and activations of tokens, as operators and spelt out as exporters do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from tests.end_to_end.random_networks.network import Tensor
from tests.end_to_end.random_networks.stream import TokenNetwork

FUSED_LAYER_NORM, FUSED_RMS_NORM, FUSED_GELU = 17, 23, 20
"""The opsets that brought the operators."""


def mean(net: TokenNetwork, x: Tensor, *axes: int, keepdims: int = 1) -> Tensor:
    """Add a ReduceMean."""
    return net.with_axes("ReduceMean", x, axes, since=18, keepdims=keepdims)


def _square(net: TokenNetwork, x: Tensor) -> Tensor:
    return net.add("Mul", x, x) if net.chance(0.4) else net.add("Pow", x, net.constant(2.0))


def _normalized(net: TokenNetwork, x: Tensor, epsilon: float) -> Tensor:
    """Divide by the root of the mean square."""
    inside = net.add("Add", mean(net, _square(net, x), -1), net.constant(epsilon))
    root = net.add("Sqrt", inside)
    if net.chance(0.5):
        return net.add("Div", x, root)
    return net.add("Mul", x, net.add("Reciprocal", root))


def layer_norm(net: TokenNetwork, x: Tensor, post: bool = False) -> Tensor:
    """Normalize the channels; behind a residual sum, what is empty stays so in most cases."""
    scale, bias = net.parameters(x.width, 0.1), net.parameters(x.width, 0.1)
    if post and net.chance(0.7):
        scale, bias = (net.constant(np.where(net.empty(x.width), 0, net.normal(x.width))) for _ in range(2))
    epsilon = net.pick(1e-5, 1e-2, 0.1)
    if net.opset >= FUSED_LAYER_NORM and net.chance(0.7):
        more = [bias] if net.chance(0.8) else []
        return net.add("LayerNormalization", x, scale, *more, axis=net.pick(-1, x.rank - 1), epsilon=epsilon)
    unit = _normalized(net, net.add("Sub", x, mean(net, x, -1)), epsilon)
    if net.chance(0.15):
        return unit
    return net.add("Add", net.add("Mul", unit, scale), bias)


def sum_and_norm(net: TokenNetwork, x: Tensor, y: Tensor) -> Tensor:
    """Add two tensors and normalize, as onnxruntime's optimizer fuses it."""
    scale, bias = net.parameters(x.width, 0.1), net.parameters(x.width, 0.1)
    if net.chance(0.5):
        return net.foreign("SkipLayerNormalization", x, y, scale, bias, like=x.shapes, epsilon=1e-2)
    return net.foreign("SkipSimplifiedLayerNormalization", x, y, scale, like=x.shapes, epsilon=1e-2)


def rms_norm(net: TokenNetwork, x: Tensor, post: bool = False) -> Tensor:
    """Divide by the root of the mean square of the channels, perhaps in float32."""
    scale = net.parameters(x.width, 0.1)
    epsilon = net.pick(1e-5, 1e-2, 0.1)
    if net.opset >= FUSED_RMS_NORM and net.chance(0.6):
        return net.add("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)
    if net.dtype is np.float16:
        return layer_norm(net, x, post)
    return net.add("Mul", *net.pick((unit := _normalized(net, x, epsilon), scale), (scale, unit)))


def l2_norm(net: TokenNetwork, x: Tensor, post: bool = False) -> Tensor | None:
    """Divide by the length of the vector of channels, which is not near zero."""
    if net.dtype is np.float16:
        return None
    shifted = net.add("Add", x, net.constant(net.normal(x.width)))
    if net.chance(0.4):
        return net.add("LpNormalization", shifted, axis=-1, p=2)
    if net.opset >= 18:
        length = net.add("ReduceL2", shifted, net.integers(-1), keepdims=1)
    else:
        length = net.add("ReduceL2", shifted, axes=[-1], keepdims=1)
    return net.add("Div", shifted, net.add("Max", length, net.constant(0.05)))


def group_norm(net: TokenNetwork, x: Tensor, post: bool = False) -> Tensor | None:
    """Normalize groups of channels over all tokens: around InstanceNormalization, or by the operator."""
    groups = net.pick(1, 2, 3)
    if x.rank != 3 or x.width % groups:
        return None
    turned = net.add("Transpose", x, perm=[0, 2, 1])
    if net.opset >= 21 and net.chance(0.4) and net.dtype is np.float32:
        scale, bias = net.parameters(x.width), net.parameters(x.width)
        y = net.add("GroupNormalization", turned, scale, bias, num_groups=groups, epsilon=0.1)
        return net.add("Transpose", replace(y, shapes=turned.shapes), perm=[0, 2, 1])  # onnx infers no shape
    grouped = net.add("Reshape", turned, net.integers(0, groups, -1))
    unit = net.add(
        "InstanceNormalization", grouped, net.constant(np.ones(groups)), net.constant(np.zeros(groups)), epsilon=0.1
    )
    back = net.add("Reshape", unit, net.shape(turned))
    scaled = net.add("Mul", back, net.constant(net.sparse(x.width, 1)))
    y = net.add("Add", scaled, net.constant(net.sparse(x.width, 1)))
    return net.add("Transpose", y, perm=[0, 2, 1])


def norm_of_heads(net: TokenNetwork, x: Tensor) -> Tensor:
    """Normalize each head of [batch, heads, tokens, dims] by itself."""
    return net.pick(layer_norm, rms_norm)(net, x)


def of_responses(net: TokenNetwork, x: Tensor, post: bool = False) -> Tensor:
    """Weigh each channel by its length over all tokens, relative to that of the mean channel."""
    if net.opset >= 18:
        length = net.add("ReduceL2", x, net.integers(1), keepdims=1)
    else:
        length = net.add("ReduceL2", x, axes=[1], keepdims=1)
    relative = net.add("Div", length, net.add("Add", mean(net, length, -1), net.constant(0.1)))
    y = net.add("Mul", net.parameters(x.width), net.add("Mul", x, relative))
    return net.add("Add", x, net.add("Add", y, net.parameters(x.width)))


def softmax_of_tokens(net: TokenNetwork, x: Tensor) -> Tensor:
    """Weigh tokens by scores that add up to 1, and return their sum as one token."""
    scores = net.linear(x, 1) if net.chance(0.6) else net.linear(x, x.width)
    if net.opset >= 13:
        weights = net.add("Softmax", scores, axis=1)
    else:  # older ones flatten all axes from the given one on
        turned = net.add("Softmax", net.add("Transpose", scores, perm=[0, 2, 1]), axis=2)
        weights = net.add("Transpose", turned, perm=[0, 2, 1])
    weighted = net.add("Mul", x, weights)
    return net.with_axes("ReduceSum", weighted, [1], keepdims=1)


def norm(net: TokenNetwork, x: Tensor, post: bool = False) -> Tensor:
    """Add some normalisation."""
    made = net.pick(layer_norm, layer_norm, layer_norm, rms_norm, rms_norm, group_norm, l2_norm, of_responses)(
        net, x, post
    )
    return layer_norm(net, x, post) if made is None else made


def activation(net: TokenNetwork, x: Tensor) -> Tensor:
    """Add what stands in a perceptron, spelt out if need be."""
    kind = net.pick("gelu", "gelu", "tanh gelu", "silu", "quick gelu", "Relu", "Tanh", "square")
    if kind == "gelu":
        if net.opset >= FUSED_GELU and net.chance(0.4):
            return net.add("Gelu", x)
        erf = net.add("Erf", net.add("Div", x, net.constant(np.sqrt(2))))
        return net.add("Mul", net.add("Mul", x, net.add("Add", erf, net.constant(1.0))), net.constant(0.5))
    if kind == "tanh gelu":
        cube = net.add("Mul", net.add("Pow", x, net.constant(3.0)), net.constant(0.044715))
        inner = net.add("Tanh", net.add("Mul", net.add("Add", x, cube), net.constant(np.sqrt(2 / np.pi))))
        return net.add("Mul", net.add("Mul", net.constant(0.5), x), net.add("Add", net.constant(1.0), inner))
    if kind == "quick gelu":
        return net.add("Mul", x, net.add("Sigmoid", net.add("Mul", x, net.constant(1.702))))
    if kind == "silu":
        return net.add("Mul", x, net.add("Sigmoid", x))
    if kind == "square":
        y = net.add("Relu", x)
        return net.add("Mul", y, y)
    return net.add(kind, x)


def in_float32(net: TokenNetwork, x: Tensor) -> Tensor:
    """Leave the network's type for one step."""
    y = net.add("Cast", x, to=TensorProto.FLOAT)
    return net.add("Cast", y, to=net.elem_type)
