"""Which constant channels of a normalised stream stay to represent those that leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Floats
from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.operators.normalization.removed import Earlier, Removed
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.memo import per_context

_MOST_CANDIDATES = 64  # constants among which a pair is looked for
_Siblings = dict[str, "NormRepresentatives"]


@per_context
def siblings_in(context: Context) -> _Siblings:
    """Return the one dict of a graph's constraints, which they enter when their classes get their final numbers."""
    return {}


@dataclass(frozen=True)
class NormRepresentatives(Constraint):
    """Of the constants that a LayerNorm sees, one or two stay for all those that leave; ids, constants of shape [N].

    With them in place the mean and the deviation over the original width, and whatever the normalisation would have
    made of the removed channels, can be had from the narrow one (see `onnxsqueeze.norms.layer_norm`). ``one`` where
    any single constant will do. ``siblings`` holds all such constraints of a graph by tensor: the norms of one stream
    see other constants on the same channels, and the same two channels should serve all of them.
    """

    tensor: str
    ids: Classes
    constants: Floats
    earlier: Earlier
    siblings: _Siblings
    one: bool = False
    place: bytes = field(default=b"", repr=False)
    by_value: ClassVar[bool] = True

    def labelled(self, labels: Classes) -> NormRepresentatives:
        """Take the place among its siblings, too."""
        found = super().labelled(labels)
        found = self.siblings[self.tensor] = replace(found, place=found.ids.tobytes())
        return found

    def enforce(self, kept: Kept) -> None:
        """Keep the cheapest of equal constants, or two that are far apart."""
        if not self._lacks(kept):
            return
        mask = kept.mask[self.ids]
        leaving = np.nonzero(~mask & ~np.isnan(self.constants))[0]
        if self.one or self._removed(kept).equal:
            chosen = leaving[[kept.cost[self.ids[leaving]].argmin()]]
        else:
            chosen = self._pair(kept, [each for each in self.siblings.values() if each.place == self.place])
        kept.add(self.ids[chosen], Reason.REPRESENTATIVE)

    def normalised(self) -> Classes:
        """Its own stream."""
        return self.ids

    def _removed(self, kept: Kept) -> Removed:
        return Removed(kept.mask[self.ids], self.constants, self.earlier)

    def _lacks(self, kept: Kept) -> bool:
        """Whether constants leave, and what stays cannot stand for them."""
        live = kept.live.get(self.tensor)
        removed = self._removed(kept)
        if live is None or not live.any() or not len(removed.values) or np.isnan(removed.values).any():
            return False
        standing = (removed.kept & ~np.isnan(self.constants)).any()
        return not standing if self.one else removed.representatives() is None

    def _pair(self, kept: Kept, siblings: Sequence[NormRepresentatives]) -> npt.NDArray[np.int64]:
        """Choose the two constants whose distance is largest for the norm that sees it smallest, beside its spread."""
        lacking = [each for each in siblings if not each.one and each._lacks(kept)]
        shared = ~np.isnan(np.stack([each.constants for each in lacking])).any(axis=0)
        found = np.nonzero(shared)[0] if shared.sum() > 1 else np.nonzero(~np.isnan(self.constants))[0]
        values = self.constants[found]
        order = np.argsort(values, kind="stable")
        ends = order[:: max(1, -(-len(order) // (_MOST_CANDIDATES - 1)))]
        found = found[np.unique([*ends, order[-1]])]
        worst = np.full((len(found), len(found)), np.inf)
        for each in lacking if shared.sum() > 1 else [self]:
            own = each.constants[found]
            spread = np.nanmax(each.constants) - np.nanmin(each.constants)
            worst = np.minimum(worst, np.abs(own[:, None] - own) / (spread or 1.0))
        first, second = np.unravel_index(int(worst.argmax()), worst.shape)
        return np.asarray(found[[first, second]])
