"""What really leaves with some classes: the planner's relations put some back, and take others along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsqueeze.coupling.constraints import Broadcast, Constraint, Kept, Rows
from onnxsqueeze.operators.attention.heads import HeadSizes

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
            for served, serving in _service(constraint):
                gone[serving[gone[served].all(axis=1)]] = True
        if int(gone.sum()) == before:
            return gone


def _service(constraint: Constraint) -> list[tuple[Classes, Classes]]:
    """Return pairs of a table of classes and the one class for each of its rows that only serves those."""
    if isinstance(constraint, Rows | Broadcast):
        last = tuple(range(-len(constraint.axes), 0))
        big = np.moveaxis(constraint.big, constraint.axes, last)
        lead = big.shape[: big.ndim - len(last)]
        small = np.moveaxis(constraint.small, constraint.axes, last)
        if any(length > 1 for length in small.shape[len(lead) :]) or constraint.small.size == 1:
            return []
        labels = np.broadcast_to(small.reshape(small.shape[: len(lead)]), lead)
        return [(big.reshape(labels.size, -1), labels.ravel())]
    if isinstance(constraint, HeadSizes):
        groups, _, size = constraint.queries.shape
        queries = constraint.queries.transpose(0, 2, 1).reshape(groups * size, -1)
        outputs = constraint.outputs.transpose(0, 2, 1).reshape(constraint.values.size, -1)
        return [(queries, constraint.keys.ravel()), (outputs, constraint.values.ravel())]
    return []
