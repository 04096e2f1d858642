"""What a recurrent node's units can be at any time: intervals that hold at first and are kept by every step.

Growing them from the initial state until nothing is added proves by induction over time what stays 0, be it through
other units that stay 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxsqueeze.abstract.arithmetic import add, times
from onnxsqueeze.abstract.compact import Array, Bools, Floats, any_along
from onnxsqueeze.abstract.interval import Interval, constant_interval, enclosing, hull, sum_is_unsure
from onnxsqueeze.operators.recurrent.layer import Layer
from onnxsqueeze.operators.recurrent.measured import signs

_EPSILON = float(np.finfo(np.float32).eps)
_FREE_ROUNDS = 3  # after which a bound that still moves is given up


@dataclass(frozen=True)
class State:
    """Facts [D, H] of the hidden values, and of an LSTM's cells (else of nothing)."""

    hidden: Interval
    cell: Interval


@dataclass(frozen=True)
class ReachableStates:
    """What a node's units are: ``reached`` after any step, ``read`` before any step, the initial state included."""

    reached: State
    read: State


def reachable_states(layer: Layer, data: Interval, start: State) -> ReachableStates:
    """Return what holds at all times, given the intervals of the inputs [I] and of the initial state [D, H]."""
    given = [[_terms(matrix, data) for matrix in gates] for gates in layer.kernel]
    state, rounds = start, 0
    while True:
        grown = _joined(state, _step(layer, given, state))
        if _same(grown, state):
            break
        state, rounds = grown if rounds < _FREE_ROUNDS else _widened(state, grown), rounds + 1
    reached = _step(layer, given, _joined(start, _step(layer, given, state)))
    return ReachableStates(reached, _joined(start, reached))


def _joined(left: State, right: State) -> State:
    return State(hull([left.hidden, right.hidden]), hull([left.cell, right.cell]))


def _same(left: State, right: State) -> bool:
    pairs = ((left.hidden, right.hidden), (left.cell, right.cell))
    return all(np.array_equal(a.lower, b.lower) and np.array_equal(a.upper, b.upper) for a, b in pairs)


def _widened(before: State, grown: State) -> State:
    pairs = ((before.hidden, grown.hidden), (before.cell, grown.cell))
    intervals = [
        Interval(
            np.where(new.lower < old.lower, -np.inf, old.lower), np.where(new.upper > old.upper, np.inf, old.upper)
        )
        for old, new in pairs
    ]
    return State(*intervals)


def _step(layer: Layer, given: Sequence[Sequence[Terms]], state: State) -> State:
    found = [_STEPS[layer.op](layer, place, given[place], state) for place in range(layer.directions)]
    return State(_stacked([part.hidden for part in found]), _stacked([part.cell for part in found]))


def _stacked(intervals: list[Interval]) -> Interval:
    return Interval(
        np.stack([interval.lower for interval in intervals]), np.stack([interval.upper for interval in intervals])
    )


def _at(interval: Interval, place: int) -> Interval:
    return Interval(interval.lower[place], interval.upper[place])


@dataclass(frozen=True)
class Terms:
    """Bounds of a sum of weighted values, before rounding.

    Attributes:
        least, most: its bounds where they are finite. least_terms, most_terms: the magnitudes of what they sum up.
        fixed: whether nothing in it varies. below, above: whether it has no bound there. count: how many terms.
    """

    least: Floats
    most: Floats
    least_terms: Floats
    most_terms: Floats
    fixed: Bools
    below: Bools
    above: Bools
    count: int

    def plus(self, other: Terms) -> Terms:
        """Return the terms of both sums."""
        return Terms(
            self.least + other.least,
            self.most + other.most,
            self.least_terms + other.least_terms,
            self.most_terms + other.most_terms,
            self.fixed & other.fixed,
            self.below | other.below,
            self.above | other.above,
            self.count + other.count,
        )

    def interval(self, bias: Floats) -> Interval:
        """Return the interval of the sum and a bias, widened by what rounding may do."""
        least, least_terms = self.least + bias, self.least_terms + np.abs(bias)
        most, most_terms = self.most + bias, self.most_terms + np.abs(bias)
        fixed, slack = self.fixed & ~sum_is_unsure(least, least_terms), _EPSILON * (self.count + 2)
        low = np.where(self.below, -np.inf, least - slack * least_terms)
        high = np.where(self.above, np.inf, most + slack * most_terms)
        met = low == high
        low, high = np.where(met, np.nextafter(low, -np.inf), low), np.where(met, np.nextafter(high, np.inf), high)
        return enclosing(np.where(fixed, least, low), np.where(fixed, least, high))


def _terms(matrix: Array, values: Interval) -> Terms:
    """Return the terms of ``matrix @ values``: a weight that is not zero contributes the bounds of what it reads."""
    wide = matrix.astype(np.float64)
    rising, falling = np.maximum(wide, 0.0), np.minimum(wide, 0.0)
    low, high = (np.where(np.isfinite(bound), bound, 0.0) for bound in (values.lower, values.upper))
    columns = np.stack([low, high, np.abs(low), np.abs(high), ~values.constant], axis=1)
    up, down = (rising @ columns).T, (falling @ columns).T
    no_lower, no_upper = np.isneginf(values.lower), np.isposinf(values.upper)
    return Terms(
        least=up[0] + down[1],
        most=up[1] + down[0],
        least_terms=up[2] - down[3],
        most_terms=up[3] - down[2],
        fixed=(up[4] == 0) & (down[4] == 0),
        below=_reads(rising, no_lower) | _reads(falling, no_upper),
        above=_reads(rising, no_upper) | _reads(falling, no_lower),
        count=wide.shape[1],
    )


def _reads(matrix: Floats, chosen: Bools) -> Bools:
    return any_along(matrix[:, chosen] != 0, 1)


def _gate(layer: Layer, place: int, gate: int, given: Sequence[Terms], hidden: Interval) -> Interval:
    """Bound what a gate's activation gets, given the terms of the inputs and what the recurrent weights read."""
    read = signs(hidden) if layer.measures else hidden
    terms = given[gate].plus(_terms(layer.recurrent[place, gate], read))
    return terms.interval(layer.biases[:, place, gate].sum(axis=0))


def _lstm(layer: Layer, place: int, given: Sequence[Terms], state: State) -> State:
    """I, O, F, C: ``c' = f c + i g`` and ``h = o act(c')``, the gates i and f seeing c, the gate o seeing c'."""
    gate, inner, outer = layer.activations[place]
    hidden, cell = _at(state.hidden, place), _at(state.cell, place)
    holes = layer.peephole[place]
    opened, kept = (
        gate.interval_of(
            add(_gate(layer, place, index, given, hidden), times(constant_interval(holes[index]), seen)), layer.clip
        )
        for index, seen in ((0, cell), (2, cell))
    )
    if layer.coupled:
        kept = _complement(opened)
    new = add(times(kept, cell), times(opened, inner.interval_of(_gate(layer, place, 3, given, hidden), layer.clip)))
    shown = gate.interval_of(
        add(_gate(layer, place, 1, given, hidden), times(constant_interval(holes[1]), new)), layer.clip
    )
    bounded = hull(
        [outer.interval_of(new, 0.0), outer.interval_of(new, layer.clip)]
    )  # runtimes differ in whether they clip here
    return State(times(shown, bounded), new)


def _gru(layer: Layer, place: int, given: Sequence[Terms], state: State) -> State:
    """Z, R, H: ``h' = (1 - z) n + z h``, the reset r applied to h before or after it is multiplied."""
    gate, inner = layer.activations[place]
    hidden = _at(state.hidden, place)
    update, reset = (gate.interval_of(_gate(layer, place, index, given, hidden), layer.clip) for index in (0, 1))
    if layer.linear_before_reset:
        before = _terms(layer.recurrent[place, 2], hidden).interval(layer.biases[1, place, 2])
        total = add(given[2].interval(layer.biases[0, place, 2]), times(reset, before))
    else:
        total = _gate(layer, place, 2, given, times(reset, hidden))
    new = inner.interval_of(total, layer.clip)
    between = hull([new, hidden])
    deferred = add(times(_complement(update), new), times(update, hidden))
    # a sigmoid is widened a little by what a runtime's approximation may be off
    share = (update.lower >= -_SHARE) & (update.upper <= 1 + _SHARE)
    deferred = Interval(np.where(share, between.lower, deferred.lower), np.where(share, between.upper, deferred.upper))
    return State(deferred, _no_cell(deferred))


_SHARE = 1e-4


def _no_cell(hidden: Interval) -> Interval:
    zeros = np.zeros_like(hidden.lower)
    return Interval(zeros, zeros)


def _rnn(layer: Layer, place: int, given: Sequence[Terms], state: State) -> State:
    """``h' = act(W x + R h + b)``."""
    (activation,) = layer.activations[place]
    new = activation.interval_of(_gate(layer, place, 0, given, _at(state.hidden, place)), layer.clip)
    return State(new, _no_cell(new))


def _complement(interval: Interval) -> Interval:
    return Interval(1.0 - interval.upper, 1.0 - interval.lower)


_STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
