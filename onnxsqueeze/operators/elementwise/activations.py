"""Every elementwise operator of one tensor: activations, roundings, Cast. Channels pass through one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx.helper import tensor_dtype_to_np_dtype

from onnxsqueeze.abstract.compact import Array, Floats
from onnxsqueeze.abstract.curves import _CURVES, ElementwiseFunction, interval_of, outside
from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.abstract.interval import Interval, outward, top
from onnxsqueeze.abstract.specials import ANY, Specials, either, mapped, where
from onnxsqueeze.abstract.symbolic import Shape, Undecided, retyped, rounded
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import PATTERN_DOMAIN, Node
from onnxsqueeze.rules.codes import limits
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal, ScoreRows
from onnxsqueeze.rules.parameters import setting_parameters
from onnxsqueeze.rules.passing import no_specials, of_first, pass_ids, pass_need
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.score_rows import all_finite_inputs
from onnxsqueeze.rules.traits import Trait


def _function(node: Node, curve: ElementwiseFunction) -> Callable[[Floats], Floats]:
    given = [node.attributes.get(name, default) for name, default in curve.parameters]
    return lambda x: curve.value(x, *given)


def _direction(node: Node, curve: ElementwiseFunction) -> int:
    """A negative slope or scale makes a rising function fall somewhere."""
    given = [node.attributes.get(name, default) for name, default in curve.parameters]
    signs = [value for (name, _), value in zip(curve.parameters, given, strict=True) if name in ("alpha", "gamma")]
    return 0 if any(isinstance(value, float) and value < 0 for value in signs) else curve.direction


def elementwise_rule(op: str, curve: ElementwiseFunction) -> OpRule:
    """Return the rule of an operator that applies a function to each element."""

    def evaluate(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
        function = _function(node, curve)
        if inputs[0].dtype == object and curve.rounding:
            entries = np.frompyfunc(lambda size: rounded(size, function, op), 1, 1)(inputs[0])
            return [np.asarray(entries, dtype=object)]
        return [function(inputs[0].astype(np.float64)).astype(inputs[0].dtype)]

    def forward(node: Node, context: Context) -> Sequence[Interval]:
        return [interval_of(context.interval(node.inputs[0]), _function(node, curve), curve, _direction(node, curve))]

    def specials(node: Node, context: Context) -> Sequence[Specials | None]:
        name, lost = node.inputs[0], None
        if node.index in context.tested:
            lost = where(outside(context.interval(name), curve), ANY)
        flags = context.special(name)
        if any(context.special(other) is not None for other in node.inputs[1:] if other):
            lost = np.full((1,) * context.rank(name), ANY)
        if flags is None:
            return [lost]
        found = mapped(flags, _function(node, curve))
        return [found if lost is None else either([found, lost])]

    return OpRule(
        op,
        evaluate=evaluate,
        forward=forward,
        specials=specials,
        link=pass_ids,
        need=pass_need,
        sliced_from=of_first,
        traits=frozenset({Trait.POINTWISE}),
    )


def _same_axis(node: Node, context: Context, position: int, axis: int) -> int | None:
    return axis if position == 0 else None


def _keep(node: Node, context: Context) -> Sequence[Interval]:
    return [context.interval(node.inputs[0])]


def _cast_value(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    if inputs[0].dtype == object:
        floating = _SIZE_TYPES.get(node.attributes["to"])
        if floating is None:
            raise Undecided("a type that cannot hold every size")
        return [np.asarray(np.frompyfunc(partial(retyped, floating=floating), 1, 1)(inputs[0]), dtype=object)]
    return [_retyped(inputs[0], tensor_dtype_to_np_dtype(int(node.attributes["to"])))]


def _retyped(value: Array, target: np.dtype[Any]) -> Array:
    """Return numbers in another type.

    Raises:
        Undecided: where what comes out depends on attributes, as with eight bits that overflow, or on the runtime.
    """
    found, whole = value.astype(target), limits(target)
    if whole is not None and (target.name not in _WHOLE or value.dtype.name not in (*_WHOLE, "bool")):
        wide = value.astype(np.float64)
        certain = (wide > whole[0] - 1.0) & (wide < whole[1] + 1.0)  # false for NaN
    elif target.name.startswith("float") and not is_floating(target):
        wide = value.astype(np.float64)
        scaled = target.name == "float8_e8m0fnu"  # powers of two, which are rounded upwards or to the nearest
        most = 0.0 if scaled else float(ml_dtypes.finfo(target).max)  # type: ignore[no-untyped-call]
        certain = (np.abs(wide) <= most) | (found.astype(np.float64) == wide)
    else:
        return found
    if not certain.all():
        raise Undecided(f"numbers that {target.name} does not hold")
    return found


_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


_SIZE_TYPES = {
    int(onnx.TensorProto.FLOAT): True,
    int(onnx.TensorProto.DOUBLE): True,
    int(onnx.TensorProto.INT32): False,
    int(onnx.TensorProto.INT64): False,
}


def _cast_interval(node: Node, context: Context) -> Sequence[Interval]:
    """Between floating types a Cast rounds, to integers it cuts off; what an integer type may not hold is unknown."""
    interval, rank = context.interval(node.inputs[0]), context.rank(node.inputs[0])
    target, source = (
        tensor_dtype_to_np_dtype(kind) for kind in (node.attributes["to"], context.dtypes[node.inputs[0]])
    )
    floating, whole = is_floating(target), limits(target)
    if floating and (is_floating(source) or limits(source) is not None):
        return [outward(interval.lower, interval.upper, interval.constant, 2.0**-7)]
    if whole is None or not (is_floating(source) or limits(source) is not None):
        return [top(rank)]
    lower, upper = np.floor(interval.lower), np.ceil(interval.upper)
    fits = (lower >= whole[0]) & (upper <= whole[1])
    return [Interval(np.where(fits, lower, -np.inf), np.where(fits, upper, np.inf))]


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


def _dropout_intervals(node: Node, context: Context) -> Sequence[Interval]:
    return [context.interval(node.inputs[0]), top(context.rank(node.inputs[0]))][: len(node.outputs)]


def _cast_like_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Of the second input only the type counts, so that a constant stays one."""
    value, like = context.value(node.inputs[0]), context.dtypes.get(node.inputs[1])
    if value is not None and like is not None:
        with suppress(Undecided):
            context.values[node.outputs[0]] = _retyped(value, tensor_dtype_to_np_dtype(like))
    return [context.shapes.get(node.inputs[0])]


def _cast_like_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    value = context.value(node.outputs[0])
    if value is not None:
        rewriter.replace(node, "Identity", [value])


def _is_infinite(node: Node, array: Array) -> Array:
    negative, positive = (bool(node.attributes.get(f"detect_{sign}", 1)) for sign in ("negative", "positive"))
    return np.asarray(np.isinf(array) & np.where(array > 0, positive, negative))


_TESTS: dict[str, tuple[Callable[[Node, Array], Array], frozenset[Trait]]] = {
    "Not": (lambda node, array: np.logical_not(array), frozenset({Trait.NEGATES})),
    "IsNaN": (lambda node, array: np.isnan(array), frozenset({Trait.TESTS_NAN, Trait.TESTS_FINITE})),
    "IsInf": (_is_infinite, frozenset({Trait.TESTS_FINITE})),
}


def _test_rule(op: str, function: Callable[[Node, Array], Array], traits: frozenset[Trait]) -> OpRule:
    def evaluate(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
        return [function(node, inputs[0])]

    def forward(node: Node, context: Context) -> Sequence[Interval]:
        interval = context.interval(node.inputs[0])
        shape, constant = interval.lower.shape, interval.constant
        at = function(node, np.where(constant, interval.lower, 0.0)).astype(np.float64)
        return [Interval(np.where(constant, at, np.zeros(shape)), np.where(constant, at, np.ones(shape)))]

    return OpRule(
        op,
        evaluate=evaluate,
        forward=forward,
        specials=no_specials,
        link=pass_ids,
        need=pass_need,
        sliced_from=of_first,
        traits=traits,
    )


_ROWS = {"Neg": ScoreRows(finite=all_finite_inputs)}

register(*(replace(elementwise_rule(op, curve), rows=_ROWS.get(op, ScoreRows())) for op, curve in _CURVES.items()))
register(*(replace(elementwise_rule(op, _CURVES[op]), domain=PATTERN_DOMAIN) for op in ("Gelu", "Swish")))
register(*(_test_rule(op, *given) for op, given in _TESTS.items()))
register(
    OpRule(
        "Identity",
        evaluate=lambda node, inputs: [inputs[0]],
        forward=_keep,
        link=pass_ids,
        need=pass_need,
        carries=_same_axis,
        sliced_from=of_first,
        traits=frozenset({Trait.ALIAS, Trait.COPIES, Trait.REARRANGES}),
        permutes=lambda node, rank: range(rank),
    ),
    OpRule(
        "Cast",
        evaluate=_cast_value,
        forward=_cast_interval,
        link=pass_ids,
        need=pass_need,
        sliced_from=of_first,
        traits=frozenset({Trait.COPIES}),
    ),
    OpRule(
        "CastLike",
        evaluate=lambda node, inputs: [_retyped(inputs[0], inputs[1].dtype)],
        infer=_cast_like_infer,
        link=pass_ids,
        need=lambda node, context, outputs: [Demand(outputs[0]), None],
        repair=_cast_like_repair,
        sliced_from=of_first,
        traits=frozenset({Trait.COPIES}),
    ),
    OpRule(
        "Dropout",
        since=7,
        applies=_mask_unused,
        forward=_dropout_intervals,
        link=_dropout_ids,
        need=pass_need,
        carries=_same_axis,
        parameters=setting_parameters,
        traits=frozenset({Trait.COPIES}),
    ),
)
