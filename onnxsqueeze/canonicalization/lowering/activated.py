"""FusedConv, NhwcFusedConv, FusedGemm, BiasGelu and FastGelu: a layer with the sum and the activation behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxsqueeze.canonicalization.lowering.channels_last import Turns, turned
from onnxsqueeze.canonicalization.lowering.parts import DOMAIN, Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.lowered_node import Lowered

_SETTINGS: Mapping[str, Sequence[str]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Elu": ("alpha",),
    "LeakyRelu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
    "Clip": ("min", "max"),
}
"""The activations that onnxruntime fuses, with their attributes in the order of ``activation_params``."""

_CLIPS_BY_INPUTS = 11  # the opset version since which the bounds of a Clip are inputs
_BIAS_OPTIONAL = 11  # the opset version since which a Gemm may do without a bias


def lower_conv(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """``activation(Conv(X, W, B) + Z)``."""
    return _lower_conv(node, parts, scope, Turns())


def lower_conv_of_last(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """The same of X and Z that have their channels last, as the result has; W has them where it always does."""
    weight = scope.constant(node.input(1))
    return None if weight is None else _lower_conv(node, parts, scope, Turns.of(weight.ndim))


def _lower_conv(node: Node, parts: Parts, scope: Scope, turns: Turns) -> Lowered | None:
    given = node.attributes.get("activation_params", ())
    activation = str(node.attributes.get("activation", ""))
    if activation and len(given) < len(_SETTINGS.get(activation, ("unknown",))):
        return None
    settings = dict(zip(_SETTINGS.get(activation, ()), map(float, given), strict=False))
    names = ("activation", "activation_params")
    x = turned(parts, parts.slot(0), turns.first)
    if turns.first:
        parts.name_next()
    x = parts.add("Conv", x, parts.slot(1), parts.slot(2), copied=_attributes(node, names))
    if node.input(3):
        x = parts.add("Add", x, turned(parts, parts.slot(3), turns.first))
    found = _activated(node, parts, scope, x, activation, settings)
    if found is None:
        return None
    turned(parts, found, turns.last)
    return parts.lowered()


def lower_gemm(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """``activation(alpha A' B' + beta C)``."""
    activation = str(node.attributes.get("activation", ""))
    if not node.input(2) and scope.graph.opsets.get("", 0) < _BIAS_OPTIONAL:
        return None
    own = [f"activation_{name}" for name in ("alpha", "beta", "gamma")]
    settings = {
        name: float(node.attributes[f"activation_{name}"])
        for name in _SETTINGS.get(activation, ())
        if f"activation_{name}" in node.attributes
    }
    x = parts.add("Gemm", *map(parts.slot, range(3)), copied=_attributes(node, ("activation", *own)))
    return None if _activated(node, parts, scope, x, activation, settings) is None else parts.lowered()


def lower_gelu(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """``Gelu(A + B)``, exact or approximate; both are operators of onnxruntime's too."""
    if not node.input(1):
        return None
    x = parts.add("Add", parts.slot(0), parts.slot(1))
    parts.add("Gelu" if node.op == "BiasGelu" else node.op, x, domain=DOMAIN)
    return parts.lowered()


def _attributes(node: Node, without: Sequence[str]) -> list[onnx.AttributeProto]:
    return [attribute for attribute in node.proto.attribute if attribute.name not in without]


def _activated(
    node: Node, parts: Parts, scope: Scope, x: str, activation: str, settings: Mapping[str, float]
) -> str | None:
    """Put the activation behind ``x`` and return what it writes; None for one that is not known."""
    if not activation:
        return x
    if activation not in _SETTINGS:
        return None
    if activation == "Clip" and scope.graph.opsets.get("", 0) >= _CLIPS_BY_INPUTS:
        kind = scope.type_of(node.input(1)) or scope.type_of(node.input(0))
        if kind is None or len(settings) < 2:
            return None
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        bounds = (parts.constant(np.array(settings[name], dtype)) for name in _SETTINGS["Clip"])
        return parts.add(activation, x, *bounds)
    return parts.add(activation, x, copied=[helper.make_attribute(name, value) for name, value in settings.items()])
