"""QuantizeLinear and DequantizeLinear: ``saturate(round(x / scale) + zero_point)`` and ``(code - zero_point) * scale``.

Bounds pass through both as what they are, steps: an interval in real numbers is one of whole codes, and where all of it
rounds to one code, or lies beyond the last, what comes out is constant whatever went in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxsqueeze.abstract.compact import Array, Floats
from onnxsqueeze.abstract.interval import Interval, enclosing, top
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.quantization.scales import (
    DOMAINS,
    SCALE,
    ZERO_POINT,
    applies,
    codes_at,
    need,
    repair,
    sliced_from,
)
from onnxsqueeze.rules.codes import Codes
from onnxsqueeze.rules.contract import Context, OpRule
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.parameters import along, placed
from onnxsqueeze.rules.passing import pass_ids
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.traits import Trait

_DOUBT = 2e-3  # steps by which a runtime's own rounding may move what is to be rounded
_ROUNDINGS = 8  # how often the number may have been rounded, each time by half of its type's epsilon


def _quantized(node: Node, inputs: Sequence[Array]) -> Sequence[Array | None]:
    """The quotient is rounded in the type of the real numbers, half to even, as runtimes do."""
    x, scale = inputs[0], inputs[SCALE]
    zero = inputs[ZERO_POINT] if len(inputs) > ZERO_POINT and node.input(ZERO_POINT) else None
    dtype = _code_type(node, zero)
    codes = Codes("", dtype, scale, zero, *_layout(node, x, scale))
    quotient = x / codes.spread(scale, x.shape).astype(x.dtype)
    if not _saturates(node, codes):
        return [None]
    return [codes.rounded(quotient.astype(np.float64)).astype(dtype)]


def _saturates(node: Node, codes: Codes) -> bool:
    """Whether what lies beyond the last code becomes that one, as it always does where codes are whole numbers."""
    return codes.limits is not None or bool(node.attributes.get("saturate", 1))


def _code_type(node: Node, zero: Array | None) -> np.dtype[Any]:
    given = int(node.attributes.get("output_dtype", 0))
    if zero is not None:
        return zero.dtype
    return tensor_dtype_to_np_dtype(given) if given else np.dtype(np.uint8)


def _layout(node: Node, x: Array, scale: Array) -> tuple[int, int]:
    axis = int(node.attributes.get("axis", 1)) % max(1, x.ndim)
    return axis, int(node.attributes.get("block_size", 0)) if scale.ndim and scale.size > 1 else 0


def _dequantized(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    x, scale = inputs[0], inputs[SCALE]
    zero = inputs[ZERO_POINT] if len(inputs) > ZERO_POINT and node.input(ZERO_POINT) else None
    return [Codes("", x.dtype, scale, zero, *_layout(node, x, scale)).decoded(x)]


def _steps(node: Node, context: Context) -> Sequence[Interval]:
    """Round both ends; a constant that a runtime may see on either side of a step is none."""
    codes, interval = codes_at(node, context), context.interval(node.inputs[0])
    unknown = not isinstance(codes, Codes) or np.isnan(codes.scale.astype(np.float64)).any()
    if not isinstance(codes, Codes) or unknown or not _saturates(node, codes):
        return [top(context.rank(node.outputs[0]))]
    shape = _shape_of(codes, interval)
    scale = codes.spread(codes.scale, shape).astype(np.float64)
    relative = _ROUNDINGS * float(ml_dtypes.finfo(codes.scale.dtype).eps)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        ends = [
            codes.rounded(_moved(end / scale, side, relative))
            for end, side in ((interval.lower, -1.0), (interval.upper, 1.0))
        ]
    return [enclosing(*ends)]


def _moved(steps: Floats, side: float, relative: float) -> Floats:
    """Move a number of steps outwards by what rounding may do to it; 0 is exact."""
    moved = steps + side * (_DOUBT + relative * np.abs(steps))
    return np.where((steps == 0) | ~np.isfinite(steps), steps, moved)


def _shape_of(codes: Codes, interval: Interval) -> tuple[int, ...]:
    """Return a shape against which scales broadcast: that of an interval, with all channels if they have their own."""
    shape = list(interval.lower.shape)
    if not codes.per_tensor:
        shape[codes.axis] = codes.scale.size
    return tuple(shape)


def _decoded(node: Node, context: Context) -> Sequence[Interval]:
    """Both ends are what a runtime computes of them."""
    codes, interval = codes_at(node, context), context.interval(node.inputs[0])
    if not isinstance(codes, Codes):
        return [top(context.rank(node.outputs[0]))]
    if np.isnan(codes.scale.astype(np.float64)).any():
        return [_relative(node, context)]
    shape = _shape_of(codes, interval)
    bounds = (-np.inf, np.inf) if codes.limits is None else codes.limits  # there are codes for what is no number
    ends = [
        codes.decoded(np.broadcast_to(np.clip(end, *bounds), shape)).astype(np.float64)
        for end in (interval.lower, interval.upper)
    ]
    return [enclosing(np.minimum(*ends), np.maximum(*ends))]


def _relative(node: Node, context: Context) -> Interval:
    """What is measured and coded at run time, and decoded again: 0 is coded as the zero point, whatever that is."""
    producer = context.graph.producers.get(node.inputs[0])
    rank = context.rank(node.outputs[0])
    if producer is None or producer.op != "DynamicQuantizeLinear" or node.input(ZERO_POINT) != producer.outputs[2]:
        return top(rank)
    measured = context.interval(producer.inputs[0])
    zero = measured.constant & (measured.lower == 0)
    return Interval(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf))


def _known(node: Node, context: Context) -> Codes | None:
    found = codes_at(node, context)
    return found if isinstance(found, Codes) and not np.isnan(found.scale.astype(np.float64)).any() else None


def _parameters(node: Node, context: Context) -> list[Parameter]:
    """The scales and zero points, which belong to channels where there are several."""
    found, codes = [], codes_at(node, context)
    for position, name in enumerate(node.inputs[1:], 1):
        if not name or context.is_activation(name):
            continue
        value = context.value(name)
        own = isinstance(codes, Codes) and not codes.per_tensor and value is not None and value.ndim == 1
        classes = (placed(along(context, node.outputs[0], codes.axis), 1, 0),) if own else ()  # type: ignore[union-attr]
        found.append(Parameter(name, position, Role.OPERAND if own else Role.SETTING, classes))
    return found


def _like_first(node: Node, context: Context) -> Sequence[Shape | None]:
    return [context.shapes.get(node.inputs[0])]


def _encoded_type(node: Node, context: Context) -> int | None:
    zero = node.input(ZERO_POINT)
    return context.dtypes.get(zero) if zero else int(TensorProto.UINT8)


def _decoded_type(node: Node, context: Context) -> int | None:
    return context.dtypes.get(node.inputs[SCALE])


_BOTH: dict[str, Any] = {
    "applies": applies,
    "link": pass_ids,
    "need": need,
    "repair": repair,
    "parameters": _parameters,
    "sliced_from": sliced_from,
}
"""What is the same for both directions."""

for _domain in DOMAINS:
    _infer = _like_first if _domain else None  # onnx infers the shapes of its own operators
    register(
        OpRule(
            "QuantizeLinear",
            domain=_domain,
            evaluate=_quantized,
            infer=_infer,
            element_type=_encoded_type,
            forward=_steps,
            traits=frozenset({Trait.ENCODES}),
            **_BOTH,
        ),
        OpRule(
            "DequantizeLinear",
            domain=_domain,
            evaluate=_dequantized,
            infer=_infer,
            element_type=_decoded_type,
            forward=_decoded,
            codes=_known,
            traits=frozenset({Trait.DECODES}),
            **_BOTH,
        ),
    )
