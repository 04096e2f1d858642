"""LRN: each channel divided by what a window of channels around it adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, enclosing
from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept, Phase
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.channels import channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.passing import pass_ids
from onnxsqueeze.rules.registry import register


@dataclass(frozen=True)
class Contiguous(Constraint):
    """Channels in a row, of which only those at either end may leave, since the others have neighbours."""

    ids: Classes
    phase: ClassVar[Phase] = Phase.FORCED

    def enforce(self, kept: Kept) -> None:
        """Keep all between the first and the last that stay."""
        places = np.flatnonzero(kept.mask[self.ids])
        if places.size:
            kept.add(self.ids[places[0] : places[-1] + 1], Reason.COMPARED, "LRN over channels between others")


def _applies(node: Node, context: Context) -> Refusal | None:
    """The divisor must be at least a positive number."""
    alpha, beta, bias = (float(node.attributes.get(key, default)) for key, default in _DEFAULTS)
    if min(alpha, beta) < 0 or bias <= 0 or not isinstance(context.shape(node.inputs[0])[1], int):
        return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.op} with a divisor that may be 0")
    return None


_DEFAULTS = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Signs and zeros stay."""
    interval = context.interval(node.inputs[0])
    zero = interval.constant & (interval.lower == 0)
    lower = np.where(interval.lower >= 0, 0.0, -np.inf)
    upper = np.where(interval.upper <= 0, 0.0, np.inf)
    return [enclosing(np.where(zero, 0.0, lower), np.where(zero, 0.0, upper))]


def _link(node: Node, context: Context) -> None:
    """Zeros at either end may leave: a window counts nothing beyond the ends. Between others they keep those apart."""
    ids = channel_ids(context, node.inputs[0], 1)
    pass_ids(node, context)
    if int(node.attributes["size"]) > 1 and ids.size > 1:
        context.elements.constraints.append(Contiguous(ids))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A channel needs all in its window, and what is no zero there cannot be left out."""
    size, live = int(node.attributes["size"]), outputs[0]
    before, length = (size - 1) // 2, live.shape[1]
    wide = np.zeros((1, length + size - 1, *(1,) * (live.ndim - 2)), dtype=bool)
    row = any_along(live, (0, *range(2, live.ndim)), keepdims=True)
    for shift in range(size):
        wide[:, shift : shift + length] |= row
    # the window of a channel reaches (size - 1) / 2 before it, rounded down, and the rest behind it
    needed = wide[:, before : before + length] if length > 1 else row
    return [Demand(needed, needed & ~_zero(node, context), Reason.COMPARED, f"{node.op} over {size} channels")]


def _zero(node: Node, context: Context) -> Bools:
    interval = context.interval(node.inputs[0])
    zero = interval.constant & (interval.lower == 0)
    others = (0, *range(2, zero.ndim))
    return np.asarray(zero.all(axis=others, keepdims=True))


register(OpRule("LRN", applies=_applies, forward=_forward, link=_link, need=_need))
