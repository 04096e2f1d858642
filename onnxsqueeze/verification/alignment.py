"""Which places of a tensor of the original are those of a narrower one: told by their values alone.

A selection of fewer channels (codes of a tensor of which some have gone) is put in its place in the original's. Nothing
rests on the places being right: whatever is put there has to be explained by the original's own scores there.
"""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from onnxsqueeze.verification.difference import Array

_SPREAD = 4.0  # standard deviations of a sum of errors, each up to the tolerance
_SUMS = 4  # random sums of scores by which a place is told
_AHEAD = 1 << 16  # places to look through for the next one


class NotFoundError(Exception):
    """Scores of a narrower tensor are none of the original's."""


def aligned(ours: Array, theirs: Array, made: Array, chosen: Array, tolerance: float) -> Array | None:
    """Return what was chosen among the scores of a narrower tensor, as a choice among those of the original.

    Places that have gone keep the original's own choice. Along another axis, as that of heads, each entry may have lost
    places of its own.

    Args:
        ours, theirs: the scores, floating-point. made, chosen: what was selected of them, of one rank with the scores
            and as long as these along the axes that are narrower. tolerance: how far equal scores may lie apart.

    Returns:
        An array like ``made``; None where the tensors do not belong together in this way.

    Raises:
        NotFoundError: where they do, and scores of the narrower one are not found.
    """
    try:
        return _aligned(ours, theirs, made, chosen, tolerance)
    except NotFoundError:
        arrays = ours, theirs, made, chosen
        for axis in reversed(range(made.ndim)):
            length = made.shape[axis]
            if length < 2 or any(array.shape[axis] != length for array in arrays):
                continue
            one, two, three, four = (np.moveaxis(array, axis, 0) for array in arrays)
            with suppress(NotFoundError):
                parts = [_aligned(*part, tolerance) for part in zip(one, two, three, four, strict=True)]
                return np.stack([np.asarray(part) for part in parts], axis)
        raise


def _aligned(ours: Array, theirs: Array, made: Array, chosen: Array, tolerance: float) -> Array | None:
    """Return the same where each place along the narrower axes has gone as a whole."""
    if len({array.ndim for array in (ours, theirs, made, chosen)}) > 1:
        return None
    axes = [axis for axis in range(made.ndim) if made.shape[axis] != chosen.shape[axis]]
    for axis in axes:
        if (made.shape[axis], chosen.shape[axis]) != (ours.shape[axis], theirs.shape[axis]):
            return None
    rows, narrow, scores, others = (_rows(array, axes) for array in (made, chosen, ours, theirs))
    if len(narrow) > len(rows) or scores.shape[1] != others.shape[1]:
        return None
    places = _places(*_signatures(scores, others, tolerance))
    if len(np.unique(places[places >= 0])) < len(narrow):
        raise NotFoundError
    found = rows.copy()
    found[places >= 0] = narrow[places[places >= 0]].astype(made.dtype)
    moved = [made.shape[axis] for axis in axes] + [size for axis, size in enumerate(made.shape) if axis not in axes]
    placed: Array = np.moveaxis(found.reshape(moved), range(len(axes)), axes)
    return placed


def _rows(array: Array, axes: list[int]) -> Array:
    """Return an array with some axes in front, as one; [places, others]."""
    moved = np.moveaxis(array, axes, range(len(axes)))
    return moved.reshape(math.prod(moved.shape[: len(axes)]), math.prod(moved.shape[len(axes) :]))


def _signatures(ours: Array, theirs: Array, tolerance: float) -> tuple[Array, Array, float]:
    """Return a few random sums of the scores of each place, [places, sums], and how far those of equal ones may differ.

    By one sum alone, some of a hundred places would look like others.
    """
    weights = np.random.default_rng(0).standard_normal((ours.shape[1], _SUMS))
    with np.errstate(all="ignore"):
        sums = [np.nan_to_num(np.asarray(each, np.float64)) @ weights for each in (ours, theirs)]
    return sums[0], sums[1], tolerance * _SPREAD * float(np.linalg.norm(weights, axis=0).max())


def _places(ours: Array, theirs: Array, room: float) -> Array:
    """Return for each of our places the one of theirs that it is, -1 for none; what is left has kept its order.

    Places beside these that are equal to one of theirs count as it: of two equal units, one may stand for both.
    """
    found, first = np.full(len(ours), -1), np.ascontiguousarray(ours[:, 0])
    start = 0
    for index, value in enumerate(theirs):
        near = start + np.flatnonzero(np.abs(first[start : start + _AHEAD] - value[0]) <= room)
        near = near[(np.abs(ours[near] - value) <= room).all(axis=1)]
        if near.size:
            start = int(near[0])
            found[start] = index
            start += 1
    if len(theirs):
        order = np.argsort(theirs[:, 0])
        least = np.searchsorted(theirs[order, 0], first - room)
        for step in range(_SUMS):
            at = order[np.clip(least + step, 0, len(theirs) - 1)]
            equal = (np.abs(theirs[at] - ours) <= room).all(axis=1) & (found < 0)
            found[equal] = at[equal]
    return found
