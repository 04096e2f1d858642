"""Products of two tensors summed over the axes that they share: MatMul of activations, and Einsum.

Every axis is called by a letter, as in an Einsum's equation, so that one piece of code sees which elements of one
tensor meet which of the other. Arrays over all letters at once are called joint: first the output's, then the summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, all_finite, fit_any
from onnxsqueeze.abstract.interval import Interval, outward
from onnxsqueeze.coupling.constraint import Classes
from onnxsqueeze.coupling.constraints import Rows
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.channels import own_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.memo import view_or_error
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.score_rows import LARGEST_CANCELLED, cancels_in_softmax, row_sums

_MOST_ELEMENTS = 1 << 20  # a constant with more is not told apart
_ROUNDING = 2.0**-7  # of a sum in half precision, relative to its largest term


@dataclass(frozen=True)
class Contraction:
    """The letters of the axes of the two operands and of the output."""

    left: str
    right: str
    output: str

    @property
    def operands(self) -> tuple[str, str]:
        """The letters of both operands."""
        return self.left, self.right

    @property
    def letters(self) -> str:
        """The joint letters: the output's, then those that are summed over."""
        return self.output + "".join(dict.fromkeys(x for x in self.left + self.right if x not in self.output))

    @property
    def summed(self) -> tuple[int, ...]:
        """The joint axes that are summed over."""
        return tuple(range(len(self.output), len(self.letters)))

    def spread(self, array: npt.NDArray[Any], letters: str) -> npt.NDArray[Any]:
        """Return an array with the axes ``letters`` as a joint one, with length 1 along the other axes."""
        order = sorted(range(len(letters)), key=lambda axis: self.letters.index(letters[axis]))
        lengths = dict(zip(letters, array.shape, strict=True))
        joint: npt.NDArray[Any] = array.transpose(order).reshape([lengths.get(letter, 1) for letter in self.letters])
        return joint

    def gathered(self, array: npt.NDArray[Any], letters: str) -> npt.NDArray[Any]:
        """Return a joint array that has length 1 along all other axes with the axes ``letters`` alone."""
        present = [letter for letter in self.letters if letter in letters]
        reduced = array.squeeze(self.absent(letters))
        own: npt.NDArray[Any] = reduced.transpose([present.index(letter) for letter in letters])
        return own

    def absent(self, letters: str) -> tuple[int, ...]:
        """Return the joint axes that are not among ``letters``."""
        return tuple(axis for axis, letter in enumerate(self.letters) if letter not in letters)


View = Callable[[Node, Context], "Contraction | Refusal"]
Relation = tuple[Classes, Classes, tuple[int, ...]]
"""Classes of rows, those of the elements, and the joint axes that make up a row."""


def any_product(left: Bools, right: Bools, dropped: Sequence[int]) -> Bools:
    """Return whether ``left & right`` holds anywhere along the ``dropped`` axes of two arrays of one rank."""
    kept = [axis for axis in range(left.ndim) if axis not in dropped]
    shape = [1 if axis in dropped else max(left.shape[axis], right.shape[axis]) for axis in range(left.ndim)]
    operands: list[Any] = []
    for array in (left, right):
        axes = [axis for axis in range(array.ndim) if array.shape[axis] > 1]
        operands += [array.reshape([array.shape[axis] for axis in axes]), axes]
    found = [axis for axis in kept if left.shape[axis] > 1 or right.shape[axis] > 1]
    product: Bools = np.asarray(np.einsum(*operands, found), dtype=bool).reshape(shape)
    return product


def _constant(node: Node, context: Context, position: int) -> npt.NDArray[Any] | None:
    name = node.inputs[position]
    return None if context.is_activation(name) else context.value(name)


def _ids(node: Node, context: Context, position: int) -> Classes:
    """Return the classes of an operand; a constant one gets some of its own, since it is sliced here."""
    constant = _constant(node, context, position)
    if constant is None:
        return context.ids(node.inputs[position])
    return own_ids(node, context, position, constant.shape if constant.size <= _MOST_ELEMENTS else (1,) * constant.ndim)


def _whole(view: Contraction, node: Node, context: Context) -> list[list[bool]]:
    """Return for each operand along which joint axes it has the full length, neither none nor a 1 that broadcasts."""
    lengths = [
        dict(zip(letters, context.shape(name), strict=True))
        for letters, name in zip(view.operands, node.inputs, strict=True)
    ]
    longer = [{own.get(letter, 1) for own in lengths} != {1} for letter in view.letters]
    return [
        [letter in own and (own[letter] != 1 or not flag) for letter, flag in zip(view.letters, longer, strict=True)]
        for own in lengths
    ]


def _applies(view: Contraction | Refusal, node: Node, context: Context) -> Refusal | None:
    """Refuse where run-time sizes decide which operand broadcasts, and constants that would vanish with a unit."""
    if isinstance(view, Refusal):
        return view
    for position in (0, 1):
        constant = _constant(node, context, position)
        if constant is not None and not (constant.dtype.kind in "fV" and all_finite(constant)):
            return Refusal(Reason.NOT_FINITE, node.operator)
    for letter in set(view.left) & set(view.right) & set(view.output):
        sizes = {context.shape(name)[own.index(letter)] for own, name in zip(view.operands, node.inputs, strict=True)}
        varies = any(
            _ids(node, context, position).shape[own.index(letter)] > 1 for position, own in enumerate(view.operands)
        )
        if varies and len(sizes - {1}) > 1:
            return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return None


def _intervals(view: Contraction, node: Node, context: Context) -> list[Interval]:
    """Return the joint intervals of both operands."""
    intervals = [context.interval(name) for name in node.inputs]
    return [
        Interval(view.spread(interval.lower, letters), view.spread(interval.upper, letters))
        for interval, letters in zip(intervals, view.operands, strict=True)
    ]


def _nonzero(interval: Interval) -> Bools:
    nonzero: Bools = ~(interval.constant & (interval.lower == 0))
    return nonzero


def _forward(view: Contraction, node: Node, context: Context) -> Sequence[Interval]:
    """A sum of products is 0 if in each of them one side is; an average of values stays within their bounds."""
    intervals = _intervals(view, node, context)
    reads = any_product(_nonzero(intervals[0]), _nonzero(intervals[1]), view.summed)
    lower, upper = np.where(reads, -np.inf, 0.0), np.where(reads, np.inf, 0.0)
    found = Interval(lower, upper)
    for position in (0, 1):
        average = _averaged(view, node, context, position, intervals[1 - position])
        if average is not None:
            found = _narrower(found, average)
    return [Interval(view.gathered(found.lower, view.output), view.gathered(found.upper, view.output))]


def _averaged(view: Contraction, node: Node, context: Context, position: int, values: Interval) -> Interval | None:
    """Bound what comes out where the rows of one operand are shares, none negative, of (at most) 1."""
    own = view.operands[position]
    if len(view.summed) != 1 or view.letters[-1] not in own:
        return None
    total = row_sums(context, node.inputs[position], own.index(view.letters[-1]))
    if total is None:
        return None
    lower = values.lower.min(axis=-1, keepdims=True)
    upper = values.upper.max(axis=-1, keepdims=True)
    if total < 1:
        lower, upper = np.minimum(lower, 0.0), np.maximum(upper, 0.0)
    return outward(lower, upper, (lower == upper) & np.isfinite(lower), _ROUNDING)


def _narrower(left: Interval, right: Interval) -> Interval:
    """Two bounds of one value hold both; a constant stays what it is."""
    lower, upper = np.maximum(left.lower, right.lower), np.minimum(left.upper, right.upper)
    fixed = right.constant & ~left.constant
    return Interval(np.where(fixed, right.lower, lower), np.where(fixed, right.upper, upper))


def _link(view: Contraction, node: Node, context: Context) -> None:
    """Elements that meet in a product share a class; the output has those of the axes that are not summed over."""
    whole = _whole(view, node, context)
    joint = [view.spread(_ids(node, context, position), view.operands[position]) for position in (0, 1)]
    joint = _glued(context, joint, whole)
    relations: list[Relation] = []
    met = [
        _part(context, ids, view.absent(other), relations)
        for ids, other in zip(joint, view.operands[::-1], strict=True)
    ]
    if any(ids.shape[axis] > 1 for ids in met for axis in view.summed):
        _joined(context, met, whole, relations)
    made = [_part(context, ids, view.summed, relations) for ids in joint]
    output = _joined(context, made, whole, relations)
    context.elements.ids[node.outputs[0]] = view.gathered(output, view.output)
    context.elements.constraints.extend(Rows(small, big, axes, output) for small, big, axes in relations)
    _restrict(view, node, context, joint, whole)


def _glued(context: Context, joint: list[Classes], whole: list[list[bool]]) -> list[Classes]:
    """Along an axis that both have, but along which the elements of only one are told apart, nothing can leave."""
    left, right = joint
    shared = [axis for axis in range(left.ndim) if whole[0][axis] and whole[1][axis]]
    return [
        context.elements.merge(ids, tuple(axis for axis in shared if other.shape[axis] == 1))
        for ids, other in ((left, right), (right, left))
    ]


def _part(context: Context, ids: Classes, dropped: Sequence[int], relations: list[Relation]) -> Classes:
    """Return classes for the rows of an operand along the ``dropped`` axes."""
    axes = tuple(axis for axis in dropped if ids.shape[axis] > 1)
    if not axes:
        return ids
    rows = context.elements.fresh(tuple(1 if axis in axes else length for axis, length in enumerate(ids.shape)))
    relations.append((rows, ids, axes))
    return rows


def _joined(
    context: Context,
    parts: list[Classes],
    whole: list[list[bool]],
    relations: list[Relation],
) -> Classes:
    """Unite the parts that do not broadcast; one that does is tied to what it meets."""
    shape = np.broadcast_shapes(*(ids.shape for ids in parts))
    varying = [axis for axis, length in enumerate(shape) if length > 1]
    complete = [place for place in (0, 1) if all(whole[place][axis] for axis in varying)] if varying else []
    joined = parts[complete[0]] if complete else context.elements.fresh(shape)
    for place, ids in enumerate(parts):
        if place in complete:
            context.elements.union(joined, ids)
        else:
            relations.append((ids, joined, tuple(axis for axis in varying if not whole[place][axis])))
    return joined


def _restrict(
    view: Contraction, node: Node, context: Context, joint: Sequence[Classes], whole: list[list[bool]]
) -> None:
    """Only the one axis that is last and not shared by all three may keep other places in each row."""
    strict, output = context.elements.strict, node.outputs[0]
    common = set(view.left) & set(view.right) & set(view.output)
    for position, own in enumerate(view.operands):
        ids = _ids(node, context, position)
        meets_short = any(
            length > 1 and letter in view.operands[1 - position] and not whole[1 - position][axis]
            for axis, (letter, length) in enumerate(zip(view.letters, joint[position].shape, strict=True))
        )
        if not _may_be_ragged(ids, own, common) or meets_short:
            strict.add(node.inputs[position])
        if _constant(node, context, position) is not None and sum(length > 1 for length in ids.shape) > 1:
            strict.update((node.inputs[1 - position], output))
        if meets_short:
            strict.add(output)
    if not _may_be_ragged(context.elements.ids[output], view.output, common):
        strict.add(output)


def _may_be_ragged(ids: Classes, letters: str, common: set[str]) -> bool:
    varying = [letter for letter, length in zip(letters, ids.shape, strict=True) if length > 1]
    return len(varying) < 2 or [letter for letter in varying if letter not in common] == varying[-1:]


def _need(view: Contraction, node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An element is live where what it is multiplied by is not 0, and does not cancel in a softmax.

    A key that is the same for all positions adds one number to a whole row of scores.
    """
    wanted = view.spread(outputs[0], view.output)
    intervals = _intervals(view, node, context)
    level = [_level(view, node, context, position, interval) for position, interval in enumerate(intervals)]
    demands: list[Demand | None] = []
    for position, own in enumerate(view.operands):
        interval, other = intervals[position], 1 - position
        live = any_product(wanted, _nonzero(intervals[other]) & ~level[other], view.absent(own))
        hold = live & interval.constant & _nonzero(interval) & ~level[position]
        live, hold = view.gathered(live, own), view.gathered(hold, own)
        demands.append(Demand(live, hold, Reason.CONSTANT_READ, node.operator))
    return demands


def _level(view: Contraction, node: Node, context: Context, position: int, interval: Interval) -> Bools:
    """Mark the constants of the operand with the output's last axis which only move whole rows that a softmax reads."""
    own, other = view.operands[position], view.operands[1 - position]
    nothing = np.zeros((1,) * len(view.letters), dtype=bool)
    if not view.output or view.output[-1] not in own or view.output[-1] in other or not interval.constant.any():
        return nothing
    if not cancels_in_softmax(context, node.outputs[0]):
        return nothing
    axis = len(view.output) - 1
    low, high = interval.lower.min(axis=axis, keepdims=True), interval.upper.max(axis=axis, keepdims=True)
    alike: Bools = (low == high) & (np.abs(low) <= LARGEST_CANCELLED)
    return alike


def _cancels(view: Contraction, node: Node, context: Context) -> Sequence[int]:
    """What is added to all keys alike moves whole rows of scores, if a softmax reads those."""
    own = [place for place, letters in enumerate(view.operands) if view.output[-1:] in letters]
    if not view.output or len(own) != 1 or not cancels_in_softmax(context, node.outputs[0]):
        return ()
    name, axis = node.inputs[own[0]], view.operands[own[0]].index(view.output[-1])
    return own if context.is_activation(name) and context.ids(name).shape[axis] == 1 else ()


def _repair(view: Contraction, node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice a constant operand as the other one and the output say."""
    for position, own in enumerate(view.operands):
        constant = _constant(node, context, position)
        if constant is None:
            continue
        kept = np.full((1,) * len(view.letters), True)
        other = view.operands[1 - position]
        for name, letters in ((node.inputs[1 - position], other), (node.outputs[0], view.output)):
            mask = view.spread(rewriter.mask(name), letters)
            absent = tuple(axis for axis in view.absent(own) if mask.shape[axis] > 1)
            kept = kept & mask.any(axis=absent, keepdims=True)
        mask = view.gathered(kept, own)
        mask = fit_any(mask, tuple(1 if a == 1 else b for a, b in zip(constant.shape, mask.shape, strict=True)))
        for axis in range(mask.ndim):
            if mask.shape[axis] > 1:
                others = tuple(place for place in range(mask.ndim) if place != axis)
                constant = np.compress(mask.any(axis=others), constant, axis=axis)
        if not mask.all():
            rewriter.set_constant(node, position, constant)


def _contracts(node: Node, context: Context) -> Sequence[str]:
    """Where both operands are activations, the channels of the first end in the sum."""
    told_apart = context.ids(node.inputs[0]).shape[-1:] > (1,)
    return node.inputs[:1] if told_apart and all(map(context.is_activation, node.inputs)) else ()


def contraction_rule(op: str, view: View, **fields: Any) -> OpRule:
    """Return the rule of an operator that multiplies two tensors, from the function that names its axes."""
    viewed = view_or_error(view)
    return OpRule(
        op,
        applies=lambda node, context: _applies(view(node, context), node, context),
        forward=lambda node, context: _forward(viewed(node, context), node, context),
        link=lambda node, context: _link(viewed(node, context), node, context),
        need=lambda node, context, outputs: _need(viewed(node, context), node, context, outputs),
        repair=lambda node, context, rewriter: _repair(viewed(node, context), node, context, rewriter),
        cancels=lambda node, context: _cancels(viewed(node, context), node, context),
        contracts=_contracts,
        **fields,
    )
