"""GELU, by the error function or approximated by the hyperbolic tangent, and SiLU (x times its sigmoid)."""

from __future__ import annotations

import math

from onnxsqueeze.canonicalization.patterns.expression import (
    Data,
    Expression,
    Number,
    OneOf,
    Operation,
    Parameter,
    Product,
    add,
)
from onnxsqueeze.canonicalization.patterns.pattern import Fused, Pattern


def _exact_gelu() -> Expression:
    x = Data()
    erf = Operation("Erf", (Product((x, Number(math.sqrt(0.5)))),))
    return Product((Number(0.5), x, add(Number(1.0), erf)))


def _approximate_gelu() -> Expression:
    """x**3 is a power or a product, and 1 + 0.044715 x**2 may stand for x + 0.044715 x**3."""
    x, slope, cubic = Data(), Number(math.sqrt(2 / math.pi)), Number(0.044715)
    cube = OneOf((Product((cubic, Operation("Pow", (x, Number(3.0))))), Product((cubic, x, x, x))))
    square = OneOf((Product((cubic, Operation("Pow", (x, Number(2.0))))), Product((cubic, x, x))))
    inside = OneOf((Product((slope, add(x, cube))), Product((slope, x, add(Number(1.0), square)))))
    return Product((Number(0.5), x, add(Number(1.0), Operation("Tanh", (inside,)))))


def _swish() -> Expression:
    x = Data()
    scaled = Operation("Mul", (Parameter("alpha"), x))
    return OneOf(
        (
            Operation("Mul", (x, Operation("Sigmoid", (x,)))),
            Operation("Mul", (x, Operation("Sigmoid", (scaled,)))),
        )
    )


PATTERNS = (
    Pattern(_exact_gelu(), ("x",), (), lambda match, scope: Fused("Gelu", {"approximate": "none"})),
    Pattern(_approximate_gelu(), ("x",), (), lambda match, scope: Fused("Gelu", {"approximate": "tanh"})),
    Pattern(_swish(), ("x",), ("alpha",), lambda match, scope: Fused("Swish", {"alpha": 1.0})),
)
