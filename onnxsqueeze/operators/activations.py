"""Every elementwise operator of one tensor: activations, roundings, Cast. Channels pass through one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.helper import tensor_dtype_to_np_dtype

from onnxsqueeze.dimension import Shape, Undecided, retyped, rounded
from onnxsqueeze.fact import Bools, Fact, Floats, interval, outward, unknown
from onnxsqueeze.graph import PATTERN_DOMAIN, Node
from onnxsqueeze.reason import Reason
from onnxsqueeze.rule import Array, Context, Demand, OpRule, Refusal, register

if TYPE_CHECKING:
    from onnxsqueeze.editor import Editor

_ERROR = 1e-5  # relative error that a runtime's approximation of a transcendental function may have
_INFINITY = math.inf


@dataclass(frozen=True)
class Curve:
    """An elementwise function of one tensor.

    Attributes:
        value: the function on float64, given the node's parameters.
        direction: 1 where it never falls, -1 where it never rises, 0 otherwise (parameters given).
        low, high: what its values stay within.
        exact: whether a runtime computes it without rounding, so that a flat stretch makes a true constant.
        steps: whether the function jumps, so that a constant right at a jump may fall on either side of it.
        rounding: whether it makes whole numbers, of sizes too.
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


_CURVES: dict[str, Curve] = {
    "Relu": Curve(lambda x: np.maximum(x, 0.0), low=0.0, exact=True),
    "LeakyRelu": Curve(lambda x, alpha: np.where(x < 0, alpha * x, x), exact=True, parameters=(("alpha", 0.01),)),
    "ThresholdedRelu": Curve(
        lambda x, alpha: np.where(x > alpha, x, 0.0), 0, exact=True, steps=True, parameters=(("alpha", 1.0),)
    ),
    "Sigmoid": Curve(_sigmoid, low=0.0, high=1.0),
    "HardSigmoid": Curve(
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0.0, 1.0),
        low=0.0,
        high=1.0,
        exact=True,
        parameters=(("alpha", 0.2), ("beta", 0.5)),
    ),
    "HardSwish": Curve(lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0), 0, low=-0.375, above_zero=True),
    "Tanh": Curve(np.tanh, low=-1.0, high=1.0),
    "Erf": Curve(_erf, low=-1.0, high=1.0),
    "Gelu": Curve(_gelu, 0, low=-0.171, above_zero=True, parameters=(("approximate", "none"),)),
    "Elu": Curve(_elu, parameters=(("alpha", 1.0),)),
    "Celu": Curve(_celu, parameters=(("alpha", 1.0),)),
    "Selu": Curve(_selu, parameters=(("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "Softplus": Curve(_softplus, low=0.0),
    "Softsign": Curve(lambda x: x / (1 + np.abs(x)), low=-1.0, high=1.0),
    "Mish": Curve(lambda x: x * np.tanh(_softplus(x)), 0, low=-0.309, above_zero=True),
    "Swish": Curve(lambda x, alpha: x * _sigmoid(alpha * x), 0, parameters=(("alpha", 1.0),)),
    "Shrink": Curve(_shrink, 0, exact=True, steps=True, parameters=(("bias", 0.0), ("lambd", 0.5))),
    "Abs": Curve(np.abs, 0, low=0.0, exact=True),
    "Neg": Curve(np.negative, -1, exact=True),
    "Ceil": Curve(np.ceil, exact=True, steps=True, rounding=True),
    "Floor": Curve(np.floor, exact=True, steps=True, rounding=True),
    "Round": Curve(np.round, exact=True, steps=True, rounding=True),
    "Sign": Curve(np.sign, low=-1.0, high=1.0, exact=True, steps=True),
    "Exp": Curve(np.exp, low=0.0),
    "Log": Curve(np.log),
    "Sqrt": Curve(np.sqrt, low=0.0),
    "Reciprocal": Curve(np.reciprocal, 0),
    "Sin": Curve(np.sin, 0, -1.0, 1.0),
    "Cos": Curve(np.cos, 0, -1.0, 1.0),
    "Tan": Curve(np.tan, 0),
    "Asin": Curve(np.arcsin),
    "Acos": Curve(np.arccos, -1),
    "Atan": Curve(np.arctan),
    "Sinh": Curve(np.sinh),
    "Cosh": Curve(np.cosh, 0, low=1.0),
    "Asinh": Curve(np.arcsinh),
    "Acosh": Curve(np.arccosh, 0),
    "Atanh": Curve(np.arctanh),
}


def curve_of(op: str) -> Curve:
    """Return the function that an operator of this module computes."""
    return _CURVES[op]


def _function(node: Node, curve: Curve) -> Callable[[Floats], Floats]:
    given = [node.attributes.get(name, default) for name, default in curve.parameters]
    return lambda x: curve.value(x, *given)


def _direction(node: Node, curve: Curve) -> int:
    """A negative slope or scale makes a rising function fall somewhere."""
    given = [node.attributes.get(name, default) for name, default in curve.parameters]
    signs = [value for (name, _), value in zip(curve.parameters, given, strict=True) if name in ("alpha", "gamma")]
    return 0 if any(isinstance(value, float) and value < 0 for value in signs) else curve.direction


def image(fact: Fact, function: Callable[[Floats], Floats], curve: Curve, direction: int) -> Fact:
    """Return the fact of the function's values."""
    if curve.steps:
        fact = _apart(fact, function)
    constant = fact.constant
    at_lower, at_upper = function(fact.lower), function(fact.upper)
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
        return interval(lower, upper)
    return outward(np.maximum(lower, curve.low), np.minimum(upper, curve.high), constant, _ERROR)


def _apart(fact: Fact, function: Callable[[Floats], Floats]) -> Fact:
    """Widen constants by what rounding may make of them where the function jumps nearby; 0 is exact."""
    below, above = (fact.lower - np.abs(fact.lower) * _ERROR, fact.upper + np.abs(fact.upper) * _ERROR)
    jumps = fact.constant & (np.abs(function(above) - function(below)) > np.abs(above - below) * 2)
    return Fact(np.where(jumps, below, fact.lower), np.where(jumps, above, fact.upper))


def pass_ids(node: Node, context: Context) -> None:
    """The output's elements stand where the input's do."""
    context.elements.ids[node.outputs[0]] = context.ids(node.inputs[0])


def pass_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input is live where its output is needed."""
    return [Demand(outputs[0])]


def _rule(op: str, curve: Curve) -> OpRule:
    def evaluate(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
        function = _function(node, curve)
        if inputs[0].dtype == object and curve.rounding:
            entries = np.frompyfunc(lambda size: rounded(size, function, op), 1, 1)(inputs[0])
            return [np.asarray(entries, dtype=object)]
        return [function(inputs[0].astype(np.float64)).astype(inputs[0].dtype)]

    def forward(node: Node, context: Context) -> Sequence[Fact]:
        return [image(context.fact(node.inputs[0]), _function(node, curve), curve, _direction(node, curve))]

    return OpRule(op, evaluate=evaluate, forward=forward, link=pass_ids, need=pass_need)


def _same_axis(node: Node, context: Context, position: int, axis: int) -> int | None:
    return axis if position == 0 else None


def _keep(node: Node, context: Context) -> Sequence[Fact]:
    return [context.fact(node.inputs[0])]


def _cast_value(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    if inputs[0].dtype == object:
        floating = _SIZE_TYPES.get(node.attributes["to"])
        if floating is None:
            raise Undecided("a type that cannot hold every size")
        return [np.asarray(np.frompyfunc(partial(retyped, floating=floating), 1, 1)(inputs[0]), dtype=object)]
    target = tensor_dtype_to_np_dtype(int(node.attributes["to"]))
    return [inputs[0].astype(target)]


_SIZE_TYPES = {
    int(onnx.TensorProto.FLOAT): True,
    int(onnx.TensorProto.DOUBLE): True,
    int(onnx.TensorProto.INT32): False,
    int(onnx.TensorProto.INT64): False,
}


def _cast_fact(node: Node, context: Context) -> Sequence[Fact]:
    """Between floating types a Cast rounds; to integers and booleans it is left unknown unless constant."""
    floating = {getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")}
    fact = context.fact(node.inputs[0])
    if node.attributes["to"] in floating and context.dtypes[node.inputs[0]] in floating:
        return [outward(fact.lower, fact.upper, fact.constant, 2.0**-7)]
    return [unknown(fact.lower.ndim)]


def _mask_unused(node: Node, context: Context) -> Refusal | None:
    training = context.value(node.input(2)) if node.input(2) else None
    if node.input(2) and (training is None or bool(training.any())):
        return Refusal(Reason.UNKNOWN_OPERATOR, "Dropout in training mode")
    if len(node.outputs) > 1 and context.graph.readers.get(node.outputs[1]):
        return Refusal(Reason.UNKNOWN_OPERATOR, "Dropout whose mask is read")
    if len(node.outputs) > 1 and node.outputs[1] in context.graph.outputs:
        return Refusal(Reason.UNKNOWN_OPERATOR, "Dropout whose mask is a graph output")
    return None


def _dropout_ids(node: Node, context: Context) -> None:
    for name in node.outputs:
        if name:
            context.elements.ids[name] = context.ids(node.inputs[0])


def _dropout_facts(node: Node, context: Context) -> Sequence[Fact]:
    return [context.fact(node.inputs[0]), unknown(context.rank(node.inputs[0]))][: len(node.outputs)]


def _cast_like_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Of the second input only the type counts, so that a constant stays one."""
    value, like = context.value(node.inputs[0]), context.dtypes.get(node.inputs[1])
    if value is not None and like is not None:
        context.values[node.outputs[0]] = value.astype(tensor_dtype_to_np_dtype(like))
    return [context.shapes.get(node.inputs[0])]


def _cast_like_repair(node: Node, context: Context, editor: Editor) -> None:
    value = context.value(node.outputs[0])
    if value is not None:
        editor.replace(node, "Identity", [value])


_TESTS: dict[str, Callable[[Array], Array]] = {"Not": np.logical_not, "IsNaN": np.isnan, "IsInf": np.isinf}


def _test_rule(op: str, function: Callable[[Array], Array]) -> OpRule:
    def evaluate(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
        return [function(inputs[0])]

    def forward(node: Node, context: Context) -> Sequence[Fact]:
        fact = context.fact(node.inputs[0])
        shape, constant = fact.lower.shape, fact.constant
        at = function(np.where(constant, fact.lower, 0.0)).astype(np.float64)
        return [Fact(np.where(constant, at, np.zeros(shape)), np.where(constant, at, np.ones(shape)))]

    return OpRule(op, evaluate=evaluate, forward=forward, link=pass_ids, need=pass_need)


register(*(_rule(op, curve) for op, curve in _CURVES.items()))
register(*(replace(_rule(op, _CURVES[op]), domain=PATTERN_DOMAIN) for op in ("Gelu", "Swish")))
register(*(_test_rule(op, function) for op, function in _TESTS.items()))
register(
    OpRule(
        "Identity",
        evaluate=lambda node, inputs: [inputs[0]],
        forward=_keep,
        link=pass_ids,
        need=pass_need,
        carries=_same_axis,
    ),
    OpRule("Cast", evaluate=_cast_value, forward=_cast_fact, link=pass_ids, need=pass_need),
    OpRule(
        "CastLike",
        infer=_cast_like_infer,
        link=pass_ids,
        need=lambda node, context, outputs: [Demand(outputs[0]), None],
        repair=_cast_like_repair,
    ),
    OpRule(
        "Dropout",
        since=7,
        applies=_mask_unused,
        forward=_dropout_facts,
        link=_dropout_ids,
        need=pass_need,
        carries=_same_axis,
    ),
)
