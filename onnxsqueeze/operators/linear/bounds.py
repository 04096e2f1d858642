"""Bounds of what a linear node computes: each weight that is not zero contributes the bounds of its channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats
from onnxsqueeze.abstract.interval import Interval, enclosing, sum_is_unsure
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.view import constants
from onnxsqueeze.rules.channels import channel_bounds
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.weight_view import Linear

_CHUNK = 1 << 21  # weight elements that are brought to float64 at a time


def read_constants(linear: Linear, node: Node, context: Context) -> Floats:
    """Return the constant input channels that some output reads, [groups, in]; 0 for all others.

    Of these the plan chooses who stands for whom, and so must what is written: a large one that nobody reads would
    leave others without a representative that is large enough.
    """
    found: Floats = np.nan_to_num(constants(linear, context)) * linear.reads.columns()
    return found


def bias_of(linear: Linear, context: Context) -> tuple[Floats, Floats]:
    """Return the bounds of the scaled bias as [groups, out]."""
    if not linear.bias:
        zero = np.zeros((linear.groups, linear.matrix.shape[1]))
        return zero, zero
    bias = np.asarray(context.value(linear.bias)).astype(np.float64) * linear.bias_scale
    rows = bias.reshape(-1, bias.shape[-1] if bias.ndim else 1)
    lower, upper = rows.min(axis=0), rows.max(axis=0)
    return linear.per_group(lower, True), linear.per_group(upper, True)


def bounds(node: Node, context: Context, linear: Linear) -> Interval:
    """Bound the outputs: a weight contributes its channel's bounds only where it is not zero."""
    lower, upper = (linear.per_group(bound, False) for bound in channel_bounds(context, linear.data, linear.data_axis))
    if linear.zero_padded:
        lower, upper = np.minimum(lower, 0.0), np.maximum(upper, 0.0)
    open_below, open_above = _open(linear, lower, upper)
    bias_low, bias_high = bias_of(linear, context)
    varying = ~((lower == upper) & np.isfinite(lower))
    constant = ~linear.reads.rows(varying) & (bias_low == bias_high)
    low, high = np.full(constant.shape, -np.inf), np.full(constant.shape, np.inf)
    epsilon = float(np.finfo(np.float32).eps) if linear.matrix.dtype.itemsize >= 4 else 2.0**-7
    reading = linear.reads.rows()
    low[~reading], high[~reading] = bias_low[~reading], bias_high[~reading]
    for group, rows in _chunks(linear, reading & ~(open_above & open_below)):
        slack = epsilon * (linear.matrix.shape[2] * linear.matrix.shape[3] + 2)
        least, most, least_terms, most_terms = _sums(linear, group, rows, lower[group], upper[group])
        least, most = least + bias_low[group, rows], most + bias_high[group, rows]
        least_terms, most_terms = (
            least_terms + np.abs(bias_low[group, rows]),
            most_terms + np.abs(bias_high[group, rows]),
        )
        fixed = constant[group, rows] = constant[group, rows] & ~sum_is_unsure(least, least_terms)
        low[group, rows] = np.where(fixed, least, least - slack * least_terms)
        high[group, rows] = np.where(fixed, least, most + slack * most_terms)
    low[open_below], high[open_above] = -np.inf, np.inf
    exact = ~reading & constant if linear.bias_scale == 1 else None  # 0 and a bias, as it is stored
    return _along(linear, context, node, replace(_parted(low, high, constant), exact=exact))


def _open(linear: Linear, lower: Floats, upper: Floats) -> tuple[Bools, Bools]:
    """Return which outputs have no lower and which no upper bound, since a channel that they read has none."""
    below, above = np.zeros((2, *linear.matrix.shape[:2]), dtype=bool)
    no_lower, no_upper = np.isneginf(lower), np.isposinf(upper)
    if not no_lower.any() and not no_upper.any():
        return below, above
    if no_lower.all() and no_upper.all():  # as of a residual stream: then signs make no difference
        return linear.reads.rows(), linear.reads.rows()
    for groups, rows, *signs in linear.signs():
        positive, negative = signs if linear.scale >= 0 else reversed(signs)
        above[groups, rows] = positive.rows(no_upper[groups]) | negative.rows(no_lower[groups])
        below[groups, rows] = positive.rows(no_lower[groups]) | negative.rows(no_upper[groups])
    return below, above


def _parted(lower: Floats, upper: Floats, constant: Bools) -> Interval:
    """Separate bounds that rounding made equal although the value varies."""
    met = (lower == upper) & ~constant
    return enclosing(
        np.where(met, np.nextafter(lower, -np.inf), lower), np.where(met, np.nextafter(upper, np.inf), upper)
    )


def _along(linear: Linear, context: Context, node: Node, interval: Interval) -> Interval:
    shape = [1] * context.rank(node.outputs[0])
    shape[linear.output_axis] = -1
    exact = None if interval.exact is None else interval.exact.reshape(shape)
    return Interval(interval.lower.reshape(shape), interval.upper.reshape(shape), exact=exact)


def _chunks(linear: Linear, rows: Bools) -> Sequence[tuple[int, npt.NDArray[np.int64]]]:
    """Split the chosen outputs of each group so that a chunk of the weight stays small."""
    per_row = max(1, linear.matrix.shape[2] * linear.matrix.shape[3])
    size = max(1, _CHUNK // per_row)
    found: list[tuple[int, npt.NDArray[np.int64]]] = []
    for group in np.nonzero(rows.any(axis=1))[0]:
        chosen = np.nonzero(rows[group])[0]
        found.extend((int(group), chosen[start : start + size]) for start in range(0, len(chosen), size))
    return found


def _sums(
    linear: Linear, group: int, rows: npt.NDArray[np.int64], lower: Floats, upper: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the least and the most that each row can sum to, and the sums of the magnitudes of their terms."""
    part = linear.matrix[group, rows].astype(np.float64)
    part *= linear.scale
    positive, negative = _over_taps(np.maximum(part, 0.0)), _over_taps(np.minimum(part, 0.0))
    low, high = np.where(np.isfinite(lower), lower, 0.0), np.where(np.isfinite(upper), upper, 0.0)
    least, most = positive @ low + negative @ high, positive @ high + negative @ low
    least_terms = positive @ np.abs(low) - negative @ np.abs(high)
    most_terms = positive @ np.abs(high) - negative @ np.abs(low)
    return least, most, least_terms, most_terms


def _over_taps(parts: Floats) -> Floats:
    """Add up [rows, in, taps] to [rows, in]; most weights have one tap, which needs no copy."""
    return parts[:, :, 0] if parts.shape[2] == 1 else np.asarray(parts.sum(axis=2))
