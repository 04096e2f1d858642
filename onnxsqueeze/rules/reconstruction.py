"""What a tensor's channels were, in terms of what is left of them: a normalisation's removed channels live on in a few.

A normalisation gives a constant channel c the value ``g (c - mean) / deviation + b``: no constant, but one formula for
all of them, so that every one of them follows from one or two that stay, the representatives. A linear reader folds
that into its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Floats


@dataclass(frozen=True)
class Reconstruction:
    """``original[i] = offset[i] + own[i] * present[i] + sum_k share[i, k] * present[representatives[k]]``.

    Attributes:
        axis: the axis of the channels.
        representatives: positions [k] among the N original channels; they are present.
        offset: float64 [N]. own: whether a channel is present as it was [N]. share: float64 [N, k].
    """

    axis: int
    representatives: npt.NDArray[np.int64]
    offset: Floats
    own: npt.NDArray[np.bool_]
    share: Floats

    def folded(self, matrix: npt.NDArray[np.floating]) -> Floats:
        """Return the columns [..., out, k, taps] that a weight [..., out, N, taps] needs at the representatives."""
        wide = matrix.astype(np.float64)
        columns = np.einsum("...oit,ik->...okt", wide, self.share)
        chosen = self.representatives
        return np.asarray(columns + np.where(self.own[chosen][:, None], wide[..., chosen, :], 0.0))
