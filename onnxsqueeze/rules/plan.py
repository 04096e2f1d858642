"""The plan: which elements stay, and why. Frozen before anything is rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.coupling.keep_reason import Reason

CAN_GATHER = 9  # the opset since which a Constant can hold indices
CAN_PAD = 11  # the opset since which Pad reads its sizes
IMAGE = 4  # axes of a tensor whose channels onnxruntime convolves in blocks
PRODUCTS_PER_PIXEL = 256  # that take as long as gathering a pixel's channels, where whole planes of images are copied
PRODUCTS_PER_POINT = 64  # the same of lines and volumes, whose convolutions lose no blocks by it


@dataclass(frozen=True)
class Narrowing:
    """The part of its weight that a layer without groups computes with, of what the tensors around it leave of that.

    Attributes:
        columns: the channels that it reads [in], among those that stay in the data.
        rows: the outputs that it computes [out], among those that stay.
        shared_zero_row: the output, a row of zeros, that is computed for all that are not; -1 if all are.
    """

    columns: Bools
    rows: Bools
    shared_zero_row: int = -1


@dataclass(frozen=True)
class Whole:
    """Why a layer computes with all of its weight, and how many rows and columns of zeros it could do without."""

    reason: Reason
    rows: int
    columns: int


@dataclass(frozen=True)
class Plan:
    """What stays.

    Attributes:
        masks: by tensor name, the elements that stay (compact bool array of the tensor's rank); only tensors that lose
            some are listed.
        reasons: by tensor name, why each element stays, as `Why` or None where it goes (compact, object).
        live: what is needed of each tensor if just this stays (compact).
        narrowings: by node index, the part of its weight that a layer computes with where the tensors stay whole.
        whole: by node index, why a layer with rows or columns of zeros computes with all of its weight.
        cancelled: by node index, the input that is a constant summand which makes no difference; -1 where there is
            none yet, and none is to be made.
    """

    masks: Mapping[str, Bools]
    reasons: Mapping[str, npt.NDArray[np.object_]]
    live: Mapping[str, Bools]
    narrowings: Mapping[int, Narrowing] = field(default_factory=dict)
    whole: Mapping[int, Whole] = field(default_factory=dict)
    cancelled: Mapping[int, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not (self.masks or self.narrowings or any(map(self.drops_summand, self.cancelled)))

    def drops_summand(self, index: int) -> bool:
        """Whether a node is to do without one of its inputs."""
        return self.cancelled.get(index, -1) >= 0

    def kept(self, name: str, axis: int, rank: int) -> Bools:
        """Return which positions along an axis stay in a tensor; of length 1 where they stay or go together."""
        mask = self.masks.get(name, np.full((1,) * rank, True))
        return any_along(mask, tuple(other for other in range(rank) if other != axis))

    def gone(self, name: str) -> bool:
        """Whether no element of a tensor stays."""
        return name in self.masks and not self.masks[name].any()
