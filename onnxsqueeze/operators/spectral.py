"""DFT, STFT and MelWeightMatrix: what networks for sound begin with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, bounded, collapse
from onnxsqueeze.abstract.symbolic import Shape, symbol
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.registry import register

_AXIS_AS_INPUT = 20  # the opset since which the axis of a DFT is an input


def _axes(node: Node, context: Context) -> tuple[int, ...] | None:
    """Return the axis that is transformed and that of real and imaginary parts; None where it is computed."""
    rank = context.rank(node.inputs[0])
    if node.op == "STFT":
        return tuple(range(1, rank))
    if node.version < _AXIS_AS_INPUT:
        axis = int(node.attributes.get("axis", 1))
    elif not node.input(2):
        axis = -2
    else:
        given = context.integers(node.inputs[2])
        if given is None:
            return None
        axis = given[0]
    return axis % rank, rank - 1


def _applies(node: Node, context: Context) -> Refusal | None:
    return None if _axes(node, context) else Refusal(Reason.UNKNOWN_SHAPE, f"{node.op} along a computed axis")


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Only of zeros it is known what they become."""
    axes = _axes(node, context)
    assert axes is not None
    interval = collapse(context.interval(node.inputs[0]), axes)
    bound = np.where(interval.constant & (interval.lower == 0), 0.0, np.inf)
    shape = (*bound.shape, *(1,) * (context.rank(node.outputs[0]) - bound.ndim))
    return [Interval(-bound.reshape(shape), bound.reshape(shape))]


def _link(node: Node, context: Context) -> None:
    """Along time and among frequencies nothing can go; other axes pass."""
    name, elements, axes = node.inputs[0], context.elements, _axes(node, context)
    assert axes is not None
    ids = elements.merge(context.ids(name), axes)
    if context.is_activation(name):
        elements.ids[name] = ids
    elements.ids[node.outputs[0]] = ids.reshape((*ids.shape, *(1,) * (context.rank(node.outputs[0]) - ids.ndim)))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """All of what is transformed counts, and what is no zero cannot be left out."""
    rank, axes = context.rank(node.inputs[0]), _axes(node, context)
    assert axes is not None
    live = any_along(outputs[0], axes, keepdims=True)
    live = live.reshape(live.shape[:rank])
    return [Demand(live, live, Reason.COMPARED, node.op), *held_sizes(node)[1:]]


def _frames(node: Node, context: Context) -> Sequence[Shape | None]:
    """STFT of [batch, length, 1 or 2] gives [batch, frames, frequencies, 2], by the length of its frames or window."""
    signal, window = context.shapes.get(node.inputs[0]), context.shapes.get(node.input(2))
    step, given = context.integers(node.inputs[1]), context.integers(node.input(3)) if node.input(3) else None
    length = given[0] if given else window[0] if window else None
    if signal is None or len(signal) not in (2, 3) or not isinstance(length, int):
        return [None]
    frequencies = length // 2 + 1 if node.attributes.get("onesided", 1) else length
    whole = isinstance(signal[1], int) and bool(step)
    count = (signal[1] - length) // step[0] + 1 if whole and step else symbol(f"{node.outputs[0]}:1")
    return [(signal[0], count, frequencies, 2)]


def _transformed(node: Node, context: Context) -> Sequence[Shape | None]:
    """DFT of all of an axis keeps its length; where a length is given, or half of it is left, onnx says it."""
    shape = context.shapes.get(node.inputs[0])
    if shape is None or node.input(1) or node.attributes.get("onesided", 0):
        return [None]
    return [(*shape[:-1], 2)]


def _mel_interval(node: Node, context: Context) -> Sequence[Interval]:
    """Triangles. Their values are not computed here: runtimes round the frequencies of their corners differently."""
    return [bounded(0.0, 1.0, context.rank(node.outputs[0]))]


register(
    OpRule("DFT", since=17, infer=_transformed, applies=_applies, forward=_forward, link=_link, need=_need),
    OpRule("STFT", since=17, infer=_frames, applies=_applies, forward=_forward, link=_link, need=_need),
    OpRule(
        "MelWeightMatrix",
        since=17,
        forward=_mel_interval,
        need=lambda node, context, outputs: held_sizes(node),
    ),
)
