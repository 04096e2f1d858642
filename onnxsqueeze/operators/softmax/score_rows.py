"""What holds for the rows of scores and probabilities: which sum to 1, and where a number added to a row cancels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.operators.softmax.softmax import GUARDED, PATTERN_DOMAIN, normalised_axes
from onnxsqueeze.rules.contract import UNKNOWN, Context

_FILLER = -1e9  # what no score comes near
_FLOATING = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
_SHARES = ("Softmax", "Hardmax")
_SUMS = ("MatMul", "Gemm", "Conv", "Einsum")
_PASSING = ("Identity", "Cast", "Dropout")
_RENAMING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def row_sums(context: Context, name: str, axis: int) -> int | None:
    """Return what the values of a tensor, none negative, sum to along an axis: 1, or 0 for at most 1, else None."""
    producer = context.graph.producers.get(name)
    if producer is None or producer.captured:
        return None
    if producer.op in _PASSING and not producer.domain and context.rules[producer.index] is not UNKNOWN:
        return row_sums(context, producer.inputs[0], axis) if context.dtypes.get(name) in _FLOATING else None
    if producer.op == GUARDED or (producer.op in _SHARES and producer.domain == ONNX_DOMAIN):
        alone = normalised_axes(producer, context.rank(name)) == (axis,)
        whole = producer.op != GUARDED or _never_masked(context, producer.inputs[0], axis)
        return int(whole) if alone else None
    softmax = context.graph.producers.get(_guarded(producer, context) or "")
    if softmax is None or row_sums(context, softmax.outputs[0], axis) != 1:
        return None
    return int(softmax.op in _SHARES and _never_masked(context, softmax.inputs[0], axis))


def _guarded(node: Node, context: Context) -> str | None:
    """Return the tensor of which a node is a copy with 0 instead of NaN."""
    if node.op != "Where" or node.domain:
        return None
    condition = context.graph.producers.get(node.inputs[0])
    filler, kept = context.value(node.inputs[1]), node.inputs[2]
    tests = condition is not None and condition.op == "IsNaN" and condition.inputs[0] == kept
    same = context.shapes.get(kept) == context.shapes.get(node.outputs[0])
    return kept if tests and same and filler is not None and not np.any(filler) else None


def _never_masked(context: Context, name: str, axis: int) -> bool:
    """Whether every row of a tensor is sure to hold a finite number, so that no guard against NaN takes hold."""
    if axis != context.rank(name) - 1:
        return False
    value, node = context.value(name), context.graph.producers.get(name)
    if value is not None:
        return value.ndim > 0 and bool(np.isfinite(value.astype(np.float64)).any(axis=-1).all())
    if _finite(context, name) or node is None or node.domain:
        return _finite(context, name)
    if node.op == "Where":
        condition = context.value(node.inputs[0])
        return condition is not None and bool(condition.any(axis=-1).all()) and _finite(context, node.inputs[1])
    if node.op != "Add":
        return False
    left, right = node.inputs
    whole = [context.shapes.get(side, ())[-1:] == context.shape(name)[-1:] for side in node.inputs]
    return any(
        whole[place] and _finite(context, other) and _never_masked(context, side, context.rank(side) - 1)
        for place, (side, other) in enumerate(((left, right), (right, left)))
    )


def _finite(context: Context, name: str) -> bool:
    """Whether a tensor holds no infinity, for finite inputs and while no sum overflows."""
    value, fact, node = context.value(name), context.fact(name), context.graph.producers.get(name)
    if value is not None:
        return bool(np.isfinite(value.astype(np.float64)).all())
    if bool(np.isfinite(fact.lower).all() and np.isfinite(fact.upper).all()) or name in context.graph.inputs:
        return True
    if node is None or node.domain or node.captured:
        return False
    if node.op in _SUMS:
        return True
    if node.op == "Div":
        divisor = context.value(node.inputs[1])
        return divisor is not None and bool(np.all(divisor != 0)) and _finite(context, node.inputs[0])
    sources = node.inputs[:1] if node.op in (*_PASSING, *_RENAMING, "Transpose", "Expand") else node.inputs
    passing = (*_PASSING, *_RENAMING, "Transpose", "Expand", "Add", "Sub", "Mul", "Neg")
    return node.op in passing and all(_finite(context, source) for source in sources)


def cancels_in_softmax(context: Context, name: str) -> bool:
    """Whether a number added to a whole row (along the last axis) of a tensor changes no graph output."""
    key = ("cancels", name)
    if key not in context.scratch:
        readers = context.graph.readers.get(name, ())
        context.scratch[key] = name not in context.graph.outputs and all(
            position >= 0 and _cancels(context, reader, position) for reader, position in readers
        )
    return bool(context.scratch[key])


def _cancels(context: Context, node: Node, position: int) -> bool:
    source, output = node.inputs[position], node.outputs[0]
    if source not in context.shapes or output not in context.shapes:
        return False
    if node.op in ("Shape", "Size") and node.domain == ONNX_DOMAIN:
        return True
    if node.op in (*_SHARES, "LogSoftmax", GUARDED) and node.domain in (ONNX_DOMAIN, PATTERN_DOMAIN):
        return normalised_axes(node, context.rank(source)) == (context.rank(source) - 1,)
    return _commutes(context, node, position) and cancels_in_softmax(context, output)


def _commutes(context: Context, node: Node, position: int) -> bool:
    """Whether a node turns a number added to each row into numbers added to the rows of its output."""
    source, output = context.shape(node.inputs[position]), context.shape(node.outputs[0])
    if node.domain != ONNX_DOMAIN or not source or not output:
        return False
    if node.op in _PASSING:
        return position == 0 and context.dtypes.get(node.outputs[0]) in _FLOATING
    if node.op == "Transpose":
        return list(node.attributes.get("perm", ()))[-1:] == [len(source) - 1]
    if node.op in _RENAMING:
        return position == 0 and source[-1] == output[-1]
    if node.op in ("Add", "Sub"):
        return True
    if node.op == "Mul" or (node.op == "Div" and position == 0):
        other = context.shapes.get(node.inputs[1 - position])
        return other is not None and (not other or other[-1] == 1)
    if node.op == "Where" and position > 0:
        return _masks(context.value(node.inputs[3 - position]))
    return False


def _masks(filler: npt.NDArray[Any] | None) -> bool:
    """Whether a constant is so low everywhere that whatever stands beside it in a row outweighs it altogether."""
    return filler is not None and bool((filler.astype(np.float64) <= _FILLER).all())
