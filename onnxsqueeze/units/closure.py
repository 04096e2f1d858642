"""What really leaves with some classes: the planner's relations put some back, and take others along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsqueeze.coupling.constraint import Constraint, Kept

Bools = npt.NDArray[np.bool_]
Classes = npt.NDArray[np.int64]


def settled(constraints: Sequence[Constraint], fixed: Bools, gone: Bools) -> Bools:
    """Return which classes stay if those in ``gone`` are to leave; those in ``fixed`` always do.

    What only serves what has gone leaves with it; then what a relation wants back stays, as in the planner.
    """
    gone = _with_followers(constraints, gone & ~fixed)
    kept = Kept(~gone, np.full(gone.size, None, dtype=object), np.ones(gone.size), {})
    while True:
        before = kept.additions
        for constraint in constraints:
            constraint.enforce(kept)
        if kept.additions == before:
            return kept.mask


def _with_followers(constraints: Sequence[Constraint], gone: Bools) -> Bools:
    gone = gone.copy()
    while True:
        before = int(gone.sum())
        for constraint in constraints:
            for served, serving in constraint.serving():
                gone[serving[gone[served].all(axis=1)]] = True
        if int(gone.sum()) == before:
            return gone
