"""The biases of layers that runtimes compute in integers: what is folded into them must be whole numbers.

With data ``(q - z) s`` and weights ``(v - u) t`` a layer adds up whole numbers and multiplies the sum by ``s t``; its
bias is one of them. What a constant channel adds is a whole number as well, so that it fits into the bias exactly,
unless that overflows. A bias that is stored with another scale takes up nothing: in real numbers it could, but
onnxruntime counts its codes in steps of ``s t`` all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, Floats
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.codes import Codes
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.lessons import Lesson, NotACode
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.rules.weight_source import codes_of
from onnxsqueeze.rules.weight_view import Linear

_BIAS = np.dtype(np.int32)  # of accumulators, and of what is added to them
_PRODUCT = 1e-6  # by which products of two scales differ relatively
_CLOSE = 1e-3  # of a step


def shifted(linear: Linear, values: Floats) -> Floats:
    """Return what channels that are constants ``values`` [groups, in] add to each output, [groups, out], in float64."""
    shift = np.zeros(linear.matrix.shape[:2])
    for group in np.nonzero(values.any(axis=1))[0]:
        columns = np.nonzero(values[group])[0]
        shift[group] = _taps(linear, int(group), columns) @ values[group, columns] * linear.scale
    return shift


def _taps(linear: Linear, group: int, columns: Array) -> Floats:
    """Return the weights of some channels of a group, summed over the taps; [out, columns]."""
    return np.asarray(linear.matrix[group][:, columns].astype(np.float64).sum(axis=2))


def integer_scale(context: Context, linear: Linear) -> Array | None:
    """Return the scale of the whole numbers that a layer adds up, one or [out]; None for a layer of real numbers."""
    data, weight = codes_of(context, linear.data), codes_of(context, linear.weight)
    if data is None or weight is None or not data.per_tensor or data.limits is None or weight.limits is None:
        return None
    if not weight.per_tensor and (weight.block or weight.axis != _output_axis(linear)):
        return None
    scale = np.float64(linear.scale) * data.scale.reshape(()) * weight.scale.astype(np.float64)
    return np.asarray(scale.reshape(-1 if scale.size > 1 else ()).astype(weight.scale.dtype))


def _output_axis(linear: Linear) -> int | None:
    """Return the axis of the weight as it is stored along which all the outputs lie; None where none does."""
    if linear.groups == 1:
        return linear.stored_axis(1)
    return (
        0
        if linear.restore(np.empty(linear.matrix.shape, dtype=bool)).shape[0] == linear.groups * linear.matrix.shape[1]
        else None
    )


def rebias_codes(
    node: Node,
    context: Context,
    rewriter: Rewriter,
    linear: Linear,
    kept_out: Bools,
    values: Floats,
    blame: Callable[[], Lesson],
) -> bool:
    """Fold constants into a bias of codes; False for a layer whose bias is, or will be, real numbers.

    Raises:
        NotACode: where the sum is none, or the bias has a scale that runtimes which compute in integers would not heed,
            naming the channels that are to stay.
    """
    stored, scale = codes_of(context, linear.bias), integer_scale(context, linear)
    if stored is None and (scale is None or linear.bias):
        return False
    kept_in = linear.per_group(rewriter.kept(linear.data, linear.data_axis), False)
    refused = partial(_not_a_code, linear, np.where(kept_in, 0.0, values), blame)
    if linear.bias_position < 0:
        if any(
            Trait.ENCODES in rule_for(reader).traits for reader, _ in context.graph.readers.get(node.outputs[0], ())
        ):
            raise refused()
        return False
    codes, before = _bias_before(context, stored, scale)
    if before.ndim > 1 or codes.block:
        raise refused()
    part = codes.part((kept_out.ravel(),))
    assert part is not None
    start = np.broadcast_to(before, kept_out.size)[kept_out.ravel()]
    factor = linear.bias_scale if linear.bias else 1.0
    counted = factor == 1 and scale is not None  # runtimes take such a bias for the sum's own steps, whatever its scale
    if counted and not _same_scale(codes.scale, scale):
        raise refused()
    steps = _whole_shift(context, linear, values) if counted else None
    if steps is not None:
        after = part.fitting(start.astype(np.float64) + steps[kept_out])
    else:
        with np.errstate(all="ignore"):  # a factor of 0 asks for more than any code holds
            by, magnitude = (
                shift[kept_out] / factor for shift in (shifted(linear, values), _magnitude(linear, values))
            )
        after = part.increased(start, by, np.abs(magnitude))
    if after is None:
        raise refused(replace(codes, scale=codes.scale * factor))
    _store(node, context, rewriter, linear, part, after)
    return True


def _bias_before(context: Context, stored: Codes | None, scale: Array | None) -> tuple[Codes, Array]:
    """Return how the bias of a layer is stored and its codes; where it has none, one of 0 in steps of a scale."""
    if stored is not None:
        return stored, np.asarray(context.value(stored.name))
    assert scale is not None
    return Codes("", _BIAS, scale), np.zeros((), _BIAS)


def _store(node: Node, context: Context, rewriter: Rewriter, linear: Linear, codes: Codes, numbers: Array) -> None:
    """Let a layer read another bias, decoded as its own is, or as its weight is if it has none."""
    maker = context.graph.producers[linear.bias or linear.weight]
    position = node.inputs.index(linear.bias, 2) if linear.bias else linear.bias_position
    if not linear.bias and linear.bias_scale != 1:
        rewriter.set_attribute(node, "beta", 1.0)  # it multiplied nothing before
    axis = {} if codes.per_tensor else {"axis": 0}
    rewriter.insert_before(node, position, maker.op, codes.decoded_from(numbers), domain=maker.domain, **axis)


def _same_scale(one: Array, other: Array | None) -> bool:
    """Whether two scales are known and the same but for the rounding of a product."""
    return other is not None and bool(np.allclose(one.astype(np.float64), other, rtol=_PRODUCT, atol=0))


def steps_of(context: Context, linear: Linear, values: Floats) -> Array | None:
    """Return constants [groups, in] in front of a layer of codes in steps of its data; None where they are no codes."""
    data = codes_of(context, linear.data)
    assert data is not None
    steps = values / np.float64(data.scale.reshape(()))
    whole = np.rint(steps)
    return whole.astype(np.int64) if np.allclose(steps, whole, rtol=_PRODUCT, atol=_CLOSE) else None


def whole_weights(context: Context, linear: Linear) -> tuple[Array, Floats]:
    """Return the weights of a layer of codes as whole numbers [groups, out, in, taps], and their scales likewise."""
    weight = codes_of(context, linear.weight)
    assert weight is not None
    scale = weight.scale.astype(np.float64).reshape(1 if weight.per_tensor else linear.groups, -1, 1, 1)
    return np.rint(linear.matrix / np.where(scale == 0, 1.0, scale)).astype(np.int64), scale


def _whole_shift(context: Context, linear: Linear, values: Floats) -> Array | None:
    """Return what `shifted` adds, counted in steps, where constants are whole numbers of them: without any rounding."""
    steps = steps_of(context, linear, values)
    return None if steps is None else np.asarray(np.einsum("goit,gi->go", whole_weights(context, linear)[0], steps))


def _magnitude(linear: Linear, values: Floats) -> Floats:
    """Return the sum of the sizes of what `shifted` adds up."""
    return shifted(replace(linear, matrix=np.abs(linear.matrix), scale=abs(linear.scale)), np.abs(values))


def _not_a_code(linear: Linear, removed: Floats, blame: Callable[[], Lesson], codes: Codes | None = None) -> Lesson:
    """Name the removed channels that add what is no whole number of steps; all, if only their sum is too much.

    Blame whoever is to blame otherwise where no channel is removed that adds anything.
    """
    places = [(int(group), int(channel)) for group, channel in np.argwhere(removed)]
    if not places:
        return blame()
    guilty = [place for place in places if codes is None or not _whole(linear, removed, codes, *place)]
    inner = linear.matrix.shape[2]
    return NotACode(linear.data, [(linear.data_axis, group * inner + channel) for group, channel in guilty or places])


def _whole(linear: Linear, values: Floats, codes: Codes, group: int, channel: int) -> bool:
    """Whether a channel adds a whole number of steps to each output of its group."""
    adds = _taps(linear, group, np.array([channel]))[:, 0] * values[group, channel] * linear.scale
    out = linear.matrix.shape[1]
    scale = codes.scale if codes.per_tensor else codes.scale[group * out : (group + 1) * out]
    return replace(codes, scale=scale).increased(np.zeros(out, codes.dtype), adds, np.abs(adds)) is not None
