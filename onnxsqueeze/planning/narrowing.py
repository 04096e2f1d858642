"""Which layers compute with a part of their weight, where the tensors around them stay whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.lessons import Used
from onnxsqueeze.rules.plan import CAN_GATHER, IMAGE, Narrowing, Plan, Whole
from onnxsqueeze.rules.queries import counted_by
from onnxsqueeze.rules.weight_source import WeightSource, codes_of, decoder_of, encoder_of, source_of, use_count
from onnxsqueeze.rules.weight_view import Linear


@dataclass(frozen=True)
class Candidate:
    """A layer with rows or columns of zeros between tensors that stay.

    Attributes:
        linear: the layer.
        narrowest: the least that it can compute with.
        kept_in, kept_out: the channels that stay in what it reads and makes; [in] and [out].
        last: whether the channels that it reads, and those that it makes, lie along the last axis.
        image: whether it reads images [N, C, H, W], which onnxruntime convolves in blocks of channels.
    """

    linear: Linear
    narrowest: Narrowing
    kept_in: Bools
    kept_out: Bools
    last: tuple[bool, bool]
    image: bool = False

    def whole(self, reason: Reason) -> Whole:
        """Return that it does not do without what the narrowest part does, and why."""
        rows = int(self.kept_out.sum() - self.narrowest.rows.sum())
        return Whole(reason, rows, int(self.kept_in.sum() - self.narrowest.columns.sum()))

    def like(self, other: Candidate) -> bool:
        """Whether the same of one weight is left here and there, and the same of it would do."""
        pairs = (
            (self.kept_in, other.kept_in),
            (self.kept_out, other.kept_out),
            (self.narrowest.columns, other.narrowest.columns),
            (self.narrowest.rows, other.narrowest.rows),
        )
        return self.last == other.last and all(np.array_equal(left, right) for left, right in pairs)


def zeros_of(
    node: Node, context: Context, linear: Linear, kept_in: Bools, kept_out: Bools, used: Used | None = None
) -> Narrowing | None:
    """Return the narrowest part of a weight that does; None if that is all that stays.

    Layers in groups are left alone, a Gemm whose beta mutes its bias, and models too old for indices in a Constant.

    Args:
        node, context, linear: the layer.
        kept_in, kept_out: which channels stay in the tensors that it reads and makes; [groups, in] and [groups, out].
        used: the columns and rows that are no zeros, where that is known better than from the file.
    """
    if linear.groups > 1 or linear.bias_scale == 0 or not kept_out.any() or not kept_in.any():
        return None
    if context.graph.opsets.get(ONNX_DOMAIN, 0) < CAN_GATHER:
        return None
    inner, outer = kept_in[0], kept_out[0]
    if used is None:
        used = linear.reads.columns(kept_out)[0], linear.reads.rows(kept_in)[0]
    columns, rows = used[0] & inner, used[1] & outer
    if not columns.any():
        columns[np.argmax(inner)] = True
    columns = linear.with_others(columns)
    empty = outer & ~rows
    first = int(np.argmax(empty)) if np.count_nonzero(empty) > 1 and not _is_table(linear, context) else -1
    if first < 0:
        rows = outer
    else:
        rows[first] = True
    return None if (columns == inner).all() and first < 0 else Narrowing(columns, rows, first)


def _is_table(linear: Linear, context: Context) -> bool:
    """Whether the bias differs from place to place, so that to store some of it twice would cost more than a vector."""
    shape = context.shape(linear.bias) if linear.bias else ()
    return any(length != 1 for length in shape[:-1])


NarrowingPolicy = Callable[[Candidate], "Narrowing | Reason"]
"""Of the narrowest part that a layer could compute with, decides on a part that pays, or why none does."""


def _narrowings(
    analysis: Analysis, plan: Plan, choose: NarrowingPolicy, used: Mapping[int, Used]
) -> tuple[dict[int, Narrowing], dict[int, Whole]]:
    """Decide for each layer. The users of one stored weight must want the same of it, else they would need copies.

    They may read it under several names, of which some stand for it behind an Identity.
    """
    users: dict[WeightSource, dict[int, Candidate]] = defaultdict(dict)
    for node in analysis.graph.nodes:
        candidate = _candidate(analysis, plan, node, used.get(node.index))
        if candidate is not None:
            users[_stored(analysis, candidate.linear.weight)][node.index] = candidate
    narrowings: dict[int, Narrowing] = {}
    whole: dict[int, Whole] = {}
    for stored, candidates in users.items():
        first, *others = candidates.values()
        known = stored.name in analysis.graph.initializers
        count = use_count(analysis.graph, stored.name, shapes=False) if known else 1
        alone = len(candidates) >= count and all(other.like(first) for other in others)
        chosen = choose(first) if alone else Reason.LARGER
        for index, candidate in candidates.items():
            if isinstance(chosen, Narrowing):
                narrowings[index] = chosen
            else:
                whole[index] = candidate.whole(chosen)
    return narrowings, whole


def _stored(analysis: Analysis, weight: str) -> WeightSource:
    """Return the initializer that a weight is, or the weight itself where it is computed."""
    rank = analysis.context.rank(weight)
    return source_of(analysis.graph, weight, rank) or WeightSource(weight, tuple(range(rank)))


def _of_codes(context: Context, linear: Linear, output: str, part: Narrowing, kept: list[Bools]) -> Narrowing | None:
    """Return the part of a weight of codes that a layer computes with, so that runtimes still do that in integers.

    Those want nothing between a layer and its encoding. So what is gathered are codes: in front of the layer, and
    behind it those of rows of zeros that need no bias of their own, where nothing but one encoding reads them. Layers
    that make whole numbers, or real ones of data whose scale is measured, or read real ones are as free as those of
    real numbers. ``kept`` are the channels that stay in what the layer reads and makes.
    """
    codes = codes_of(context, linear.weight)
    if codes is None or counted_by(context, output) is not None:
        return part
    if codes.block and linear.together is None:
        return None
    decoder = decoder_of(context, linear.data)
    if decoder is None and (not linear.bias or codes_of(context, linear.bias) is None):
        return part
    if codes_of(context, linear.data) is None:  # its scale is measured
        return part
    free = encoder_of(context, output) is not None
    part = _alike(context, linear, part, kept[1]) if free else replace(part, rows=kept[1], shared_zero_row=-1)
    return None if (part.columns == kept[0]).all() and part.shared_zero_row < 0 else part


def _alike(context: Context, linear: Linear, part: Narrowing, kept: Bools) -> Narrowing:
    """Let the rows of zeros that are most alike share one: those of one bias, to which nothing will be added."""
    bias = np.asarray(context.value(linear.bias) if linear.bias else 0.0).reshape(-1)
    whole = replace(part, rows=kept, shared_zero_row=-1)
    if part.shared_zero_row < 0 or bias.size not in (1, kept.size):
        return whole
    empty = kept & ~part.rows & ~any_along(linear.matrix != 0, (0, 2, 3))
    empty[part.shared_zero_row] = not linear.matrix[:, part.shared_zero_row].any()
    found, counts = np.unique(np.broadcast_to(bias, kept.shape)[empty], return_counts=True)
    if not (counts > 1).any():
        return whole
    alike = empty & (bias == found[counts.argmax()])
    first = int(np.argmax(alike))
    rows = kept & ~alike
    rows[first] = True
    return Narrowing(part.columns, rows, first)


def _candidate(analysis: Analysis, plan: Plan, node: Node, used: Used | None) -> Candidate | None:
    """Return a layer that has rows or columns of zeros between what stays of the tensors around it."""
    rule, context = analysis.rules[node.index], analysis.context
    if not rule.narrows or rule.linear is None or not context.is_activation(node.outputs[0]):
        return None
    linear = rule.linear(node, context)
    if context.special(linear.data) is not None:
        return None  # a zero that meets an infinity makes NaN
    sides = ((linear.data, linear.data_axis), (node.outputs[0], linear.output_axis))
    kept = [
        linear.per_group(plan.kept(name, axis, context.rank(name)), bool(place))
        for place, (name, axis) in enumerate(sides)
    ]
    found = zeros_of(node, context, linear, kept[0], kept[1], used)
    if found is not None:
        found = _of_codes(context, linear, node.outputs[0], found, [kept[0][0], kept[1][0]])
    if found is None:
        return None
    last = [axis == context.rank(name) - 1 for name, axis in sides]
    image = context.rank(linear.data) == IMAGE
    return Candidate(linear, found, kept[0][0], kept[1][0], (last[0], last[1]), image)
