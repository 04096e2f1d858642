"""What a plan leaves of each tensor. All names and axes are those of the original graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.symbolic import Dimension, Symbolic
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.plan import Plan


class PlanView:
    """Answers about the tensors of a graph of which a plan leaves only a part."""

    def __init__(self, context: Context, plan: Plan) -> None:
        self.context = context
        self.plan = plan

    def mask(self, name: str) -> Bools:
        """Return which elements of a tensor stay (compact; all of them for a constant)."""
        if name in self.plan.masks:
            return self.plan.masks[name]
        return np.full((1,) * self.context.rank(name), True)

    def live(self, name: str) -> Bools:
        """Return which elements of a tensor something depends on (compact)."""
        return self.plan.live.get(name, np.full((1,) * self.context.rank(name), False))

    def kept(self, name: str, axis: int) -> Bools:
        """Return which positions along an axis stay in a tensor; of length 1 where they stay or go together."""
        return self.plan.kept(name, axis, self.context.rank(name))

    def positions(self, name: str, axis: int) -> Bools:
        """Like `kept`, repeated to the axis's original length, which must be known."""
        length = self.context.shape(name)[axis]
        assert isinstance(length, int)
        return np.broadcast_to(self.kept(name, axis), (length,))

    def narrowed(self, name: str) -> bool:
        """Whether a tensor loses some of its elements."""
        return name in self.plan.masks

    def new_length(self, name: str, axis: int) -> Dimension | None:
        """Return the new length of an axis that changes, None for one that stays as it is.

        Of a size as ``4*batch`` the factor changes.
        """
        mask = self.mask(name)
        if mask.shape[axis] == 1 or not mask.any():
            return None
        last = max(place for place, length in enumerate(mask.shape) if length > 1)
        # rows may keep different positions along the last varying axis, but equally many
        kept = mask.sum(axis=axis).max() if axis == last else self.kept(name, axis).sum()
        count, size = int(kept), self.context.shape(name)[axis]
        if count == mask.shape[axis]:
            return None
        if isinstance(size, Symbolic):
            return replace(size, coefficient=size.coefficient * count // mask.shape[axis])
        return count
