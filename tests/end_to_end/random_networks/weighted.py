"""Layers with weights; each returns None where it does not apply."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.end_to_end.random_networks.network import Network, Tensor


def conv(net: Network, x: Tensor, groups: int = 1, units: int | None = None) -> Tensor | None:
    """Add a convolution in any number of dimensions, padded or not, perhaps strided or dilated."""
    if not x.spatial:
        return None
    units = units or net.whole(2, 9)
    kernel = net.pick(1, 3) if x.least >= 3 else 1
    dilation = 2 if kernel == 3 and x.least >= 5 and net.chance(0.15) else 1
    pad = net.pick(0, 0, dilation) if kernel == 3 else int(net.chance(0.1))
    options: dict[str, Any] = {"pads": [pad] * 2 * x.spatial}
    if net.chance(0.2):
        options |= {"strides": [2] * x.spatial}
    if dilation > 1:
        options |= {"dilations": [dilation] * x.spatial}
    weight = net.weight(units, x.channels // groups, *[kernel] * x.spatial)
    return net.add("Conv", x, weight, *net.bias(units), group=groups, **options)


def grouped_conv(net: Network, x: Tensor) -> Tensor | None:
    """Add a convolution in two or three groups."""
    fitting = [groups for groups in (2, 3) if x.channels % groups == 0]
    if not fitting:
        return None
    groups = net.pick(*fitting)
    return conv(net, x, groups, groups * net.whole(1, 4))


def depthwise_conv(net: Network, x: Tensor) -> Tensor | None:
    """Add a convolution with a group for each channel, and one or two units in it."""
    return conv(net, x, x.channels, x.channels * net.pick(1, 1, 2))


def transposed_conv(net: Network, x: Tensor) -> Tensor | None:
    """Add a transposed convolution, sometimes in two groups."""
    if not x.spatial or x.elements > 1000:
        return None
    evaluated = net.dtype is np.float64  # by onnx's own evaluator, which knows one group only
    groups = 2 if x.channels % 2 == 0 and not evaluated and net.chance(0.3) else 1
    units = net.whole(1, 4)
    kernel, stride = net.pick((2, 2), (3, 1), (3, 2), (1, 2))
    weight = net.weight(x.channels, units, *[kernel] * x.spatial, axes=(1, 0))
    options: dict[str, Any] = {"pads": [1] * 2 * x.spatial} if kernel == 3 and net.chance(0.5) else {}
    options |= {"group": groups, "strides": [stride] * x.spatial}
    return net.add("ConvTranspose", x, weight, *net.bias(units * groups), **options)


def gemm(net: Network, x: Tensor) -> Tensor | None:
    """Add a Gemm: the weight as it is or transposed, the data too, and biases of several shapes."""
    if x.spatial:
        return None
    units, turned = net.whole(2, 9), net.pick(0, 1)
    weight = net.weight(units, x.channels) if turned else net.weight(x.channels, units, axes=(1, 0))
    options: dict[str, Any] = {"alpha": 0.5, "beta": 2.0} if net.chance(0.3) else {}
    shape = net.pick(None, (units,), (1, units), (1,), ())
    bias = [] if shape is None else [net.constant(net.sparse(*shape))]
    if net.chance(0.3):
        return net.add("Gemm", net.add("Transpose", x, perm=[1, 0]), weight, *bias, transA=1, transB=turned, **options)
    return net.add("Gemm", x, weight, *bias, transB=turned, **options)


def gemm_of_weight(net: Network, x: Tensor) -> Tensor | None:
    """Add a Gemm whose first factor is the weight."""
    if x.spatial:
        return None
    units = net.whole(2, 9)
    bias = [net.constant(net.sparse(units, 1))] if net.chance(0.6) else []
    product = net.add("Gemm", net.weight(units, x.channels), x, *bias, transB=1)
    return net.add("Transpose", product, perm=[1, 0])


def matmul(net: Network, x: Tensor) -> Tensor:
    """Add a product with the channels last, and perhaps a bias on either side of an Add."""
    units, last = net.whole(2, 9), [0, *x.space, 1]
    y = net.add("Transpose", x, perm=last) if x.spatial else x
    y = net.add("MatMul", y, net.weight(x.channels, units, axes=(1, 0)))
    for bias in net.bias(units):
        y = net.add("Add", *net.pick((y, bias), (bias, y)))
    return net.add("Transpose", y, perm=[0, x.rank - 1, *range(1, x.rank - 1)]) if x.spatial else y


def matmul_of_weight(net: Network, x: Tensor) -> Tensor | None:
    """Add a product whose first factor is the weight."""
    units = net.whole(2, 9)
    if x.spatial == 1:
        return net.add("MatMul", net.weight(units, x.channels), x)
    if x.spatial:
        return None
    product = net.add("MatMul", net.weight(units, x.channels), net.add("Transpose", x, perm=[1, 0]))
    return net.add("Transpose", product, perm=[1, 0])


def flattened_matmul(net: Network, x: Tensor) -> Tensor | None:
    """Flatten the spatial axes, multiply with a weight from the left, and restore them."""
    if x.spatial < 2:
        return None
    units = net.whole(2, 9)
    flat = net.add("Reshape", x, net.integers(0, x.channels, -1))
    product = net.add("MatMul", net.weight(units, x.channels), flat)
    return net.add("Reshape", product, net.sizes(0, units, *net.extents(x)))


def squeeze_and_excite(net: Network, x: Tensor) -> Tensor | None:
    """Multiply each channel with a gate that is computed from all of their means."""
    if not x.spatial:
        return None
    middle, ones = net.whole(2, 6), [1] * x.spatial
    gate = net.add(net.pick("GlobalAveragePool", "GlobalMaxPool"), x)
    gate = net.add("Relu", net.add("Conv", gate, net.weight(middle, x.channels, *ones), *net.bias(middle)))
    gate = net.add("Conv", gate, net.weight(x.channels, middle, *ones), *net.bias(x.channels))
    return net.add("Mul", x, net.add(net.pick("Sigmoid", "HardSigmoid"), gate))
