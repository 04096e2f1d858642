"""Softmax, LogSoftmax and Hardmax: each value is set against all others along the normalised axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, bounded
from onnxsqueeze.abstract.specials import GAPS, NAN, NEGATIVE, POSITIVE, Specials, along, either, has, where, without
from onnxsqueeze.abstract.symbolic import Symbolic
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import GUARDED, ONNX_DOMAIN, PATTERN_DOMAIN, Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, ScoreRows
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.score_rows import never_masked
from onnxsqueeze.rules.traits import Trait

_ONE_AXIS = 13  # the opset version since which only one axis is normalised, not all from that one on
_BOUNDS = {"LogSoftmax": (float("-inf"), 0.0)}


def normalised_axes(node: Node, rank: int) -> tuple[int, ...]:
    """Return the axes over which the values of a node of this module sum to 1 (or the exponentials of them)."""
    flattens = node.op != GUARDED and node.version < _ONE_AXIS
    axis = int(node.attributes.get("axis", 1 if flattens else -1)) % max(1, rank)
    return tuple(range(axis, rank)) if flattens else (axis,)


def _link(node: Node, context: Context) -> None:
    """Nothing can leave from between normalised values, which therefore share a class."""
    name = node.inputs[0]
    merged = context.elements.merge(context.ids(name), normalised_axes(node, context.rank(name)))
    context.elements.ids[node.outputs[0]] = merged


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Every value that is set against a needed one is read, and a constant cannot be left out."""
    name = node.inputs[0]
    axes = normalised_axes(node, context.rank(name))
    live = any_along(outputs[0], axes, keepdims=True)
    held = live if any(context.ids(name).shape[axis] > 1 for axis in axes) else None
    return [Demand(live, held, Reason.NORMALISED, f"{node.op} over axis {', '.join(map(str, axes))}")]


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Shares lie between 0 and 1; those of scores that are all constant are constant."""
    rank = context.rank(node.outputs[0])
    shares = bounded(*_BOUNDS.get(node.op, (0.0, 1.0)), rank)
    scores, axes = context.interval(node.inputs[0]), normalised_axes(node, rank)
    sizes = [context.shape(node.inputs[0])[axis] for axis in axes if scores.lower.shape[axis] == 1]
    if node.op != "Softmax" or rank == 0 or any(isinstance(size, Symbolic) for size in sizes):
        return [shares]
    known = scores.constant.all(axis=axes, keepdims=True)
    if not known.any():
        return [shares]
    values = np.where(known, scores.lower, 0.0)
    powers = np.exp(values - values.max(axis=axes, keepdims=True))
    found = powers / (powers.sum(axis=axes, keepdims=True) * np.prod([int(size) for size in sizes]))  # type: ignore[arg-type]
    return [Interval(np.where(known, found, shares.lower), np.where(known, found, shares.upper))]


def _specials(node: Node, context: Context) -> Sequence[Specials | None]:
    """A row of minus infinity alone makes NaN, as infinities and NaN anywhere in it do.

    Rows that a mask or a border reaches into count as such only before a test of the network's own: what it masks as a
    whole otherwise is its users' affair. With 0 in place of NaN nothing special comes out.
    """
    flags = context.special(node.inputs[0])
    if flags is None or node.op == GUARDED:
        return [None]
    axes = normalised_axes(node, context.rank(node.inputs[0]))
    row = along(flags, axes)
    lost = has(row, POSITIVE, NAN, NEGATIVE)
    if node.index in context.tested and not (len(axes) == 1 and never_masked(context, node.inputs[0], axes[0])):
        lost = lost | has(row, GAPS)
    return [either([where(lost, NAN), without(flags, POSITIVE, NAN) if node.op == "LogSoftmax" else where(lost, NAN)])]


def _total(node: Node, context: Context, axis: int) -> int | None:
    """Probabilities sum to 1, guarded ones to 0 where a whole row is masked."""
    if normalised_axes(node, context.rank(node.outputs[0])) != (axis,):
        return None
    return int(node.op != GUARDED or never_masked(context, node.inputs[0], axis))


def _cancels(node: Node, context: Context) -> bool:
    last = context.rank(node.inputs[0]) - 1
    return normalised_axes(node, last + 1) == (last,)


def _rule(op: str, domain: str = ONNX_DOMAIN) -> OpRule:
    shares = op != "LogSoftmax"
    traits = {Trait.TESTS_FINITE} if op == GUARDED else {Trait.NORMALISES} if shares else set()
    return OpRule(
        op,
        domain,
        forward=_forward,
        specials=_specials,
        link=_link,
        need=_need,
        traits=frozenset(traits),
        rows=ScoreRows(total=_total, cancels=_cancels) if shares else ScoreRows(cancels=_cancels),
    )


register(_rule("Softmax"), _rule("LogSoftmax"), _rule("Hardmax"), _rule(GUARDED, PATTERN_DOMAIN))
