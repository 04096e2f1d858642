"""Constants in front of a layer of codes that no bias can hold: a few of them stay and do what all did.

A layer adds up whole numbers, weights ``v`` by data ``d``. Where borders see fewer taps, or where nothing is added to
the sum before it is encoded, no bias can hold what constants add to it. But ``sum v d`` over all constants is a whole
number for each output and tap, and mostly it is as well ``sum w d`` over a few of them, with other weights ``w`` that
are codes: the very same accumulator, so that every bit stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools, Floats
from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.coded import integer_scale, steps_of, whole_weights
from onnxsqueeze.operators.linear.view import constants
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.rules.weight_source import codes_of, use_count
from onnxsqueeze.rules.weight_view import Linear

Whole = npt.NDArray[np.int64]
_LARGEST = 1 << 8  # of the steps of data: those of 16 bits are too far apart for weights of 8


@dataclass(frozen=True, eq=False)
class Constants:
    """What the constants in front of a layer add up to, in whole numbers.

    Attributes:
        steps: of each input, 0 for what is no constant, [groups, in]. weights: [groups, out, in, taps].
        scale: of the weights, so that it broadcasts against them. least, most: what the weights may be.
    """

    steps: Whole
    weights: Whole
    scale: Floats
    least: int
    most: int

    @cached_property
    def totals(self) -> Whole:
        """Return what all constants add to each output at each tap, [groups, out, taps]."""
        return np.asarray(np.einsum("goit,gi->got", self.weights, self.steps))


def constants_of(node: Node, context: Context, linear: Linear) -> Constants | None:
    """Return the constants in front of a layer that some of them may stand for; None where a bias can, or nothing."""
    known = context.memo(_constants)
    if (node.index,) not in known:
        known[node.index,] = _constants(node, context, linear)
    return known[node.index,]


def _constants(node: Node, context: Context, linear: Linear) -> Constants | None:
    data, weight = codes_of(context, linear.data), codes_of(context, linear.weight)
    if data is None or weight is None or integer_scale(context, linear) is None or linear.depthwise:
        return None
    if not (linear.zero_padded or _sum_is_encoded(node, context, linear)):
        return None
    if weight.limits is None or use_count(context.graph, weight.name) > 1 or context.learned.tied:
        return None
    steps = steps_of(context, linear, np.nan_to_num(constants(linear, context)))
    if steps is None or not steps.any() or np.abs(steps).max() >= _LARGEST:
        return None
    weights, scale = whole_weights(context, linear)
    return Constants(steps, weights, scale, int(weights.min()), int(weights.max()))


def _sum_is_encoded(node: Node, context: Context, linear: Linear) -> bool:
    """Whether what a layer without a place for a bias adds up is encoded as it is."""
    readers = [reader for reader, _ in context.graph.readers.get(node.outputs[0], ())]
    return (
        not linear.bias
        and linear.bias_position < 0
        and any(Trait.ENCODES in rule_for(reader).traits for reader in readers)
    )


@dataclass(frozen=True)
class StandIns(Constraint):
    """Enough constants stay to do what all did.

    Attributes:
        tensor: in front of the layer. ids: [groups, in]. constants: in whole numbers.
    """

    tensor: str
    ids: Classes
    constants: Constants
    by_value: ClassVar[bool] = True

    def enforce(self, kept: Kept) -> None:
        """Add one constant after the other to each group that lost some, until those that stay can stand for them."""
        steps, least, most = self.constants.steps, self.constants.least, self.constants.most
        constant, totals = steps != 0, self.constants.totals
        lost = kept.lost(self.tensor, self.ids) & constant
        for group in np.nonzero(lost.any(axis=1))[0]:
            stays = kept.mask[self.ids[group]] & constant[group]
            while solved(totals[group], steps[group][stays], least, most) is None:
                added = _next(totals[group], steps[group], stays, max(-least, most))
                if added < 0:
                    break
                stays[added] = True
                kept.add(self.ids[group, added : added + 1], Reason.REPRESENTATIVE)


def _next(totals: Whole, steps: Whole, stays: Bools, most: int) -> int:
    """Return which constant should stay as well, -1 if none is left.

    The largest, until those that stay reach what is wanted; then the smallest that shares no factor with them, to fill
    the gaps between multiples of larger ones.
    """
    free = np.flatnonzero(~stays & (steps != 0))
    if not free.size:
        return -1
    sizes = np.abs(steps[free])
    if not stays.any() or not _reach(totals, steps[stays], most):
        return int(free[sizes.argmax()])
    return int(free[np.lexsort((sizes, np.gcd(steps[free], np.gcd.reduce(steps[stays]))))[0]])


def _reach(totals: Whole, steps: Whole, most: int) -> bool:
    """Whether steps, each taken ``most`` times, add up to as much as whole numbers do."""
    return int(np.abs(totals).max(initial=0)) <= int(np.abs(steps).sum()) * most


def stand_in(linear: Linear, found: Constants, kept_in: Bools, rows: Bools) -> Array | None:
    """Return the weights with which the constants that stay do what all did, [groups, out, in, taps]; None if none do.

    Args:
        linear: the layer. found: its constants. kept_in: [groups, in]. rows: the outputs that matter, [groups, out].
    """
    totals, weights = found.totals, found.weights.copy()
    for group in range(linear.groups):
        stays = kept_in[group] & (found.steps[group] != 0)
        lost = ~kept_in[group] & (found.steps[group] != 0)
        chosen = np.flatnonzero(rows[group] & weights[group][:, lost].any(axis=(1, 2)))
        if not chosen.size:
            continue
        part = solved(totals[group, chosen], found.steps[group][stays], found.least, found.most)
        if part is None:
            return None
        weights[group, chosen[:, None], np.flatnonzero(stays)[None, :]] = np.moveaxis(part, 2, 1)
    return np.asarray((weights * found.scale).astype(linear.matrix.dtype))


def solved(totals: Whole, steps: Whole, least: int, most: int) -> Whole | None:
    """Write whole numbers as sums of a few steps, with weights between two bounds.

    Args:
        totals: any shape. steps: [n], none 0. least, most: the bounds.

    Returns:
        weights [.., n] so that ``weights @ steps`` is ``totals``; None where none were found.
    """
    if not _reach(totals, steps, max(-least, most)):
        return None
    found, rest = np.zeros((*totals.shape, len(steps)), np.int64), totals.copy()
    order = _ordered(steps)
    for index, place in enumerate(order):
        step, others = int(steps[place]), steps[order[index + 1 :]]
        found[..., place] = _weight(rest, step, others, least, most)
        rest -= found[..., place] * step
    inside = (found >= least).all() and (found <= most).all()
    return found if inside and not rest.any() else None


def _ordered(steps: Whole) -> list[int]:
    """Return the places of steps, the largest first, but that two with a small common factor come last."""
    order = [int(place) for place in np.argsort(-np.abs(steps), kind="stable")]
    if len(steps) < 3:
        return order
    one, two = np.triu_indices(len(steps), 1)
    sizes = np.abs(steps)
    best = np.lexsort((sizes[one] + sizes[two], np.gcd(steps[one], steps[two])))[0]
    last = sorted((int(one[best]), int(two[best])), key=order.index)
    return [*(place for place in order if place not in last), *last]


def _weight(rest: Whole, step: int, others: Whole, least: int, most: int) -> Whole:
    """Choose the weight of a step so that the others can add up to what is left of some whole numbers.

    That must be a multiple of their common factor, so that the weight is known up to multiples of another number. Large
    steps leave as little as they can; the last but one leaves what lies in the middle of what the last one can reach.
    """
    if not others.size:
        return rest // step
    common = int(np.gcd.reduce(others))
    factor = gcd(step, common)
    modulus = common // factor
    base = rest // factor * pow(step // factor, -1, modulus) % modulus
    reached = np.sort(np.outer(others, (least, most)), axis=1).sum(axis=0)
    first, second = (rest - reached[0]) / step, (rest - reached[1]) / step
    low, high = np.maximum(np.minimum(first, second), least), np.minimum(np.maximum(first, second), most)
    wanted = (low + high) / 2 if others.size == 1 else np.clip(rest / step, low, high)
    return np.asarray(base + np.rint((wanted - base) / modulus).astype(np.int64) * modulus)
