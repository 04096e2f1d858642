"""Global response normalization of ConvNeXt V2, over channels that lie along the last axis or in front of space."""

from __future__ import annotations

from onnxsqueeze.canonicalization.patterns.expression import (
    Data,
    Expression,
    Match,
    Mean,
    Norm,
    Number,
    OneOf,
    Operation,
    Parameter,
    Product,
    Weight,
    add,
)
from onnxsqueeze.canonicalization.patterns.pattern import Fused, Pattern
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import RESPONSE_NORM


def _response_normalization() -> Expression:
    """Exporters multiply by 1 as well, where a framework added a product times a number."""
    x, weight, bias = Data(), Weight("weight"), Weight("bias")
    norm = Norm(x)
    ratio = Operation("Div", (norm, add(Parameter("epsilon"), Mean(norm))))
    scaled = OneOf((Product((weight, x, ratio)), Product((Number(1.0), weight, x, ratio))))
    return OneOf((add(x, add(bias, scaled)), add(bias, add(x, scaled)), add(scaled, add(x, bias))))


def _named(match: Match, scope: Scope) -> Fused | None:
    """The mean is taken over the one axis of the channels, the norm over others."""
    if len(match.axes) != 1 or set(match.axes) & set(match.space):
        return None
    return Fused(RESPONSE_NORM, {"axis": match.axes[0], "space": match.space})


PATTERNS = (Pattern(_response_normalization(), ("x", "weight", "bias"), ("epsilon",), _named),)
