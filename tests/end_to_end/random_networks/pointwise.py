"""Layers that keep every channel where it is: activations, arithmetic, normalization, and operators without a rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from tests.end_to_end.random_networks.network import Network, Tensor

ACTIVATIONS = {
    1: (
        "Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign", "Abs",
        "Neg", "Erf", "Sin", "Cos", "Atan", "Asinh", "Identity", "ThresholdedRelu", "Shrink", "Dropout",
    ),
    14: ("HardSwish",),
    18: ("Mish",),
    20: ("Gelu",),
}  # fmt: skip
"""By the opset that they need."""

POSITIVE = ("Sqrt", "Log", "Reciprocal", "Exp")
"""Run on a bounded and positive argument, so that no value explodes."""


def activation(net: Network, x: Tensor) -> Tensor:
    """Add an activation."""
    return net.add(net.pick(*[name for since, names in ACTIVATIONS.items() if net.opset >= since for name in names]), x)


def positive_activation(net: Network, x: Tensor) -> Tensor:
    """Add a function of a positive argument."""
    return net.add(net.pick(*POSITIVE), net.add("Add", net.add("Sigmoid", x), net.constant(0.25)))


def clip(net: Network, x: Tensor) -> Tensor:
    """Add a Clip with either bound or both."""
    low, high = net.pick((-0.5, 0.5), (0.0, 6.0), (0.1, None), (None, 0.7))
    bounds = [None if bound is None else net.constant(bound) for bound in (low, high)]
    return net.add("Clip", x, *(bounds if high is not None else bounds[:1]))


def prelu(net: Network, x: Tensor) -> Tensor:
    """Add a PRelu with a slope for each channel, or one for all of them."""
    slope = net.sparse(x.channels if net.chance(0.7) else 1)
    return net.add("PRelu", x, net.per_channel(x, slope))


def power(net: Network, x: Tensor) -> Tensor:
    """Raise to powers from 0 to 2, one for each channel or for all."""
    powers = net.random.integers(0, 3, x.channels if net.chance(0.6) else 1)
    return net.add("Pow", net.add("Tanh", x), net.per_channel(x, powers))


def arithmetic(net: Network, x: Tensor) -> Tensor:
    """Add or multiply a constant for each channel or for all, on either side."""
    op = net.pick("Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean")
    value = net.sparse(x.channels if net.chance(0.6) else 1, share=0.4)
    constant = net.constant(net.sparse()) if net.chance(0.1) else net.per_channel(x, value)
    first, second = net.pick((x, constant), (constant, x))
    if op == "Mean":  # onnx's own evaluator adds into the first operand
        first, second = x, constant
    return net.add(op, first, second)


def division(net: Network, x: Tensor) -> Tensor:
    """Divide by constants that are not near zero."""
    return net.add("Div", x, net.per_channel(x, 0.5 + net.random.random(x.channels)))


def choice(net: Network, x: Tensor) -> Tensor:
    """Choose by a stored condition for each channel, between a tensor and constants."""
    width = net.pick(1, x.channels)
    condition = net.constant(net.random.random((width, *[1] * x.spatial)) < 0.5, np.bool_)
    other = net.per_channel(x, net.sparse(net.pick(1, x.channels)))
    return net.add("Where", condition, *net.pick((x, other), (other, x)))


def comparison(net: Network, x: Tensor) -> Tensor:
    """Choose by a condition that is computed, or multiply with it."""
    limit = net.per_channel(x, 0.3 + net.random.random(net.pick(1, x.channels)))
    above = replace(net.add(net.pick("Greater", "Less"), x, limit), dtype=np.bool_)
    if net.chance(0.5):
        return net.add("Where", above, x, net.constant(net.pick(0, 0.3)))
    return net.add("Mul", x, net.add("Cast", above, to=net.elem_type))


def cast(net: Network, x: Tensor) -> Tensor:
    """Compute one step in float32, and go on in the network's own type."""
    y = net.add("Cast", x, to=TensorProto.FLOAT)
    return net.add("Cast", y, to=net.elem_type)


def batch_norm(net: Network, x: Tensor) -> Tensor:
    """Add a BatchNormalization of which some scales are zero."""
    count = x.channels
    statistics = (net.sparse(count), net.sparse(count), net.sparse(count), net.random.random(count) + 0.5)
    return net.add("BatchNormalization", x, *map(net.constant, statistics))


def pool(net: Network, x: Tensor) -> Tensor | None:
    """Add a pool, perhaps padded or strided."""
    if not x.spatial or x.least < 2:
        return None
    op, pads = net.pick("MaxPool", "AveragePool", "AveragePool", "LpPool"), [net.pick(0, 0, 1)] * 2 * x.spatial
    options = {"count_include_pad": net.pick(0, 1)} if op == "AveragePool" else {}
    return net.add(op, x, kernel_shape=[2] * x.spatial, strides=[net.pick(1, 2)] * x.spatial, pads=pads, **options)


# -- operators without a rule -----------------------------------------------------------------------------------------


def softmax(net: Network, x: Tensor) -> Tensor:
    """Normalize along the channels or along an extent."""
    return net.add("Softmax", x, axis=net.pick(1, x.rank - 1))


def instance_norm(net: Network, x: Tensor) -> Tensor | None:
    """Add an InstanceNormalization of which some scales are zero."""
    if not x.spatial:
        return None
    scale, bias = net.sparse(x.channels), net.sparse(x.channels)
    return net.add("InstanceNormalization", x, net.constant(scale), net.constant(bias), epsilon=0.1)


def layer_norm(net: Network, x: Tensor) -> Tensor | None:
    """Add a LayerNormalization over channels that come last."""
    if net.opset < 17:
        return None
    scale, bias = net.constant(net.sparse(x.channels)), net.constant(net.sparse(x.channels))
    y = net.add("Transpose", x, perm=[0, *x.space, 1])
    y = net.add("LayerNormalization", y, scale, bias, axis=-1, epsilon=0.1)
    return net.add("Transpose", y, perm=[0, x.rank - 1, *range(1, x.rank - 1)])


def largest(net: Network, x: Tensor) -> Tensor:
    """Take the largest channels at each place."""
    return net.split("TopK", x, net.integers(net.whole(1, x.channels)), outputs=2, axis=1)[0]


def running_sum(net: Network, x: Tensor) -> Tensor | None:
    """Add up along the channels or another axis."""
    if net.opset < 14 and net.dtype is np.float16:
        return None
    return net.add("CumSum", x, net.constant(net.pick(1, x.rank - 1), np.int64))
