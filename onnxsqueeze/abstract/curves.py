"""Elementwise functions of one variable and the intervals that they take on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Bools, Floats
from onnxsqueeze.abstract.interval import Interval, enclosing, never_negative, outward

_ERROR = 1e-5  # relative error that a runtime's approximation of a transcendental function may have


_INFINITY = math.inf
_SMALLEST, _BELOW_ONE = math.ulp(0.0), math.nextafter(1.0, 0.0)


@dataclass(frozen=True)
class ElementwiseFunction:
    """An elementwise function of one tensor.

    Attributes:
        value: the function on float64, given the node's parameters.
        direction: 1 where it never falls, -1 where it never rises, 0 otherwise (parameters given).
        low, high: what its values stay within.
        exact: whether a runtime computes it without rounding, so that a flat stretch makes a true constant.
        steps: whether the function jumps, so that a constant right at a jump may fall on either side of it.
        rounding: whether it makes whole numbers, of sizes too.
        domain: the least and the greatest number of which it is a finite number.
        pole: whether it is none of 0, within that.
        above_zero: for direction 0, whether values stay below max(value(upper), 0), as those of GELU and its kin do.
    """

    value: Callable[..., Floats]
    direction: int = 1
    low: float = -_INFINITY
    high: float = _INFINITY
    exact: bool = False
    steps: bool = False
    rounding: bool = False
    above_zero: bool = False
    domain: tuple[float, float] = (-_INFINITY, _INFINITY)
    pole: bool = False
    parameters: tuple[tuple[str, Any], ...] = ()


def _erf(x: Floats) -> Floats:
    distinct, places = np.unique(x, return_inverse=True)
    return np.array([math.erf(entry) for entry in distinct.tolist()])[places].reshape(x.shape)


def _gelu(x: Floats, approximate: str) -> Floats:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -x))


def _elu(x: Floats, alpha: float) -> Floats:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _celu(x: Floats, alpha: float) -> Floats:
    return np.maximum(x, 0.0) + np.minimum(0.0, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


def _selu(x: Floats, alpha: float, gamma: float) -> Floats:
    return gamma * _elu(x, alpha)


def _softplus(x: Floats) -> Floats:
    return np.logaddexp(0.0, x)


def _shrink(x: Floats, bias: float, lambd: float) -> Floats:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))


_CURVES: dict[str, ElementwiseFunction] = {
    "Relu": ElementwiseFunction(lambda x: np.maximum(x, 0.0), low=0.0, exact=True),
    "LeakyRelu": ElementwiseFunction(
        lambda x, alpha: np.where(x < 0, alpha * x, x), exact=True, parameters=(("alpha", 0.01),)
    ),
    "ThresholdedRelu": ElementwiseFunction(
        lambda x, alpha: np.where(x > alpha, x, 0.0), 0, exact=True, steps=True, parameters=(("alpha", 1.0),)
    ),
    "Sigmoid": ElementwiseFunction(_sigmoid, low=0.0, high=1.0),
    "HardSigmoid": ElementwiseFunction(
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0.0, 1.0),
        low=0.0,
        high=1.0,
        exact=True,
        parameters=(("alpha", 0.2), ("beta", 0.5)),
    ),
    "HardSwish": ElementwiseFunction(lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0), 0, low=-0.375, above_zero=True),
    "Tanh": ElementwiseFunction(np.tanh, low=-1.0, high=1.0),
    "Erf": ElementwiseFunction(_erf, low=-1.0, high=1.0),
    "Gelu": ElementwiseFunction(_gelu, 0, low=-0.171, above_zero=True, parameters=(("approximate", "none"),)),
    "Elu": ElementwiseFunction(_elu, parameters=(("alpha", 1.0),)),
    "Celu": ElementwiseFunction(_celu, parameters=(("alpha", 1.0),)),
    "Selu": ElementwiseFunction(
        _selu, parameters=(("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))
    ),
    "Softplus": ElementwiseFunction(_softplus, low=0.0),
    "Softsign": ElementwiseFunction(lambda x: x / (1 + np.abs(x)), low=-1.0, high=1.0),
    "Mish": ElementwiseFunction(lambda x: x * np.tanh(_softplus(x)), 0, low=-0.309, above_zero=True),
    "Swish": ElementwiseFunction(lambda x, alpha: x * _sigmoid(alpha * x), 0, parameters=(("alpha", 1.0),)),
    "Shrink": ElementwiseFunction(_shrink, 0, exact=True, steps=True, parameters=(("bias", 0.0), ("lambd", 0.5))),
    "Abs": ElementwiseFunction(np.abs, 0, low=0.0, exact=True),
    "Neg": ElementwiseFunction(np.negative, -1, exact=True),
    "Ceil": ElementwiseFunction(np.ceil, exact=True, steps=True, rounding=True),
    "Floor": ElementwiseFunction(np.floor, exact=True, steps=True, rounding=True),
    "Round": ElementwiseFunction(np.round, exact=True, steps=True, rounding=True),
    "Sign": ElementwiseFunction(np.sign, low=-1.0, high=1.0, exact=True, steps=True),
    "Exp": ElementwiseFunction(np.exp, low=0.0),
    "Log": ElementwiseFunction(np.log, domain=(_SMALLEST, _INFINITY)),
    "Sqrt": ElementwiseFunction(np.sqrt, low=0.0, domain=(0.0, _INFINITY)),
    "Reciprocal": ElementwiseFunction(np.reciprocal, 0, pole=True),
    "Sin": ElementwiseFunction(np.sin, 0, -1.0, 1.0),
    "Cos": ElementwiseFunction(np.cos, 0, -1.0, 1.0),
    "Tan": ElementwiseFunction(np.tan, 0),
    "Asin": ElementwiseFunction(np.arcsin, domain=(-1.0, 1.0)),
    "Acos": ElementwiseFunction(np.arccos, -1, domain=(-1.0, 1.0)),
    "Atan": ElementwiseFunction(np.arctan),
    "Sinh": ElementwiseFunction(np.sinh),
    "Cosh": ElementwiseFunction(np.cosh, 0, low=1.0),
    "Asinh": ElementwiseFunction(np.arcsinh),
    "Acosh": ElementwiseFunction(np.arccosh, 0, domain=(1.0, _INFINITY)),
    "Atanh": ElementwiseFunction(np.arctanh, domain=(-_BELOW_ONE, _BELOW_ONE)),
}


def elementwise_function_of(op: str) -> ElementwiseFunction:
    """Return the function that an operator of this module computes."""
    return _CURVES[op]


def interval_of(
    interval: Interval, function: Callable[[Floats], Floats], curve: ElementwiseFunction, direction: int
) -> Interval:
    """Return the interval of the function's values."""
    if curve.steps:
        interval = _apart(interval, function)
    constant = interval.constant
    at_lower, at_upper = function(interval.lower), function(interval.upper)
    if direction > 0:
        lower, upper = at_lower, at_upper
    elif direction < 0:
        lower, upper = at_upper, at_lower
    else:
        lower = np.where(constant, at_lower, curve.low)
        top = np.fmax(at_upper, 0.0) if curve.above_zero else np.full(lower.shape, curve.high)
        upper = np.where(constant, at_lower, top)
    lower, upper = np.where(np.isnan(lower), curve.low, lower), np.where(np.isnan(upper), curve.high, upper)
    if curve.exact:
        found = enclosing(lower, upper)
        return found if interval.exact is None else replace(found, exact=_copied(interval, found))
    found = outward(np.maximum(lower, curve.low), np.minimum(upper, curve.high), constant, _ERROR)
    return never_negative(found, lower) if curve.low >= 0 else found


def _copied(interval: Interval, found: Interval) -> Bools:
    """Return where an exact constant stays one: what is 0 or the number itself, but for its sign, is not rounded."""
    kept = (found.lower == 0) | (np.abs(found.lower) == np.abs(interval.lower))
    assert interval.exact is not None
    return np.asarray(interval.constant & interval.exact & kept & found.constant)


def outside(interval: Interval, curve: ElementwiseFunction) -> Bools:
    """Return where a value may be none of which the function is a finite number."""
    low, high = curve.domain
    beyond = (interval.lower < low) | (interval.upper > high)
    return np.asarray(beyond | ((interval.lower <= 0) & (interval.upper >= 0)) if curve.pole else beyond)


def _apart(interval: Interval, function: Callable[[Floats], Floats]) -> Interval:
    """Widen constants by what rounding may make of them where the function jumps nearby; 0 is exact."""
    below, above = (interval.lower - np.abs(interval.lower) * _ERROR, interval.upper + np.abs(interval.upper) * _ERROR)
    jumps = interval.constant & (np.abs(function(above) - function(below)) > np.abs(above - below) * 2)
    return Interval(np.where(jumps, below, interval.lower), np.where(jumps, above, interval.upper))
