"""Constraints that hypothesis draws, and what each of them promises, written out element by element."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept
from onnxsqueeze.coupling.constraints import (
    Box,
    Broadcast,
    Copies,
    Groups,
    NotEmpty,
    Representative,
    RoundUp,
    Rows,
)
from onnxsqueeze.operators.attention.heads import HeadSizes
from onnxsqueeze.operators.attention.packed_attention import Products
from onnxsqueeze.operators.attention.rotary_embedding import SameInEachHead
from onnxsqueeze.operators.linear.stand_ins import Constants, StandIns
from onnxsqueeze.operators.normalization.local_response import Contiguous
from onnxsqueeze.operators.normalization.removed import Earlier
from onnxsqueeze.operators.normalization.representatives import NormRepresentatives
from onnxsqueeze.operators.recurrent.lstm_gru_rnn import Recurrence
from onnxsqueeze.operators.recurrent.measured import Extremes

PROPERTY = settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
TENSOR = "x"  # the one tensor whose liveness is drawn
Bools = npt.NDArray[np.bool_]
lengths = st.integers(1, 3)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


class Fresh:
    """Gives out identifiers that are not in use yet, as `Elements.fresh` does."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *shape: int) -> Classes:
        size = int(np.prod(shape))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)


# -- how each is drawn -------------------------------------------------------------------------------------------------


def _box(draw: Any, fresh: Fresh) -> Constraint:
    shape = draw(st.lists(lengths, min_size=1, max_size=2)) + [draw(st.integers(2, 4))]
    return Box(fresh(*shape), draw(st.booleans()), draw(st.booleans()))


def _shapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Draw the shape of a tensor, some of its axes, and the shape of a smaller one with length 1 at least there."""
    big = tuple(draw(st.lists(lengths, min_size=2, max_size=3)))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(big) - 1), min_size=1, max_size=2))))
    alike = {*axes, *draw(st.sets(st.integers(0, len(big) - 1), max_size=1))}
    return big, axes, tuple(1 if axis in alike else length for axis, length in enumerate(big))


def _broadcast(draw: Any, fresh: Fresh) -> Constraint:
    big, axes, small = _shapes(draw)
    return Broadcast(fresh(*small), fresh(*big), axes)


def _rows(draw: Any, fresh: Fresh) -> Constraint:
    big, axes, small = _shapes(draw)
    output = tuple(draw(st.sampled_from((1, length))) for length in big)
    return Rows(fresh(*small), fresh(*big), axes, fresh(*output))


def _copies(draw: Any, fresh: Fresh) -> Constraint:
    big, axes, small = _shapes(draw)
    return Copies(np.broadcast_to(fresh(*small), big), fresh(*big), axes)


def _groups(draw: Any, fresh: Fresh) -> Constraint:
    groups = draw(lengths)
    spares = draw(st.sampled_from((None, _spares)))
    return Groups(fresh(groups, draw(lengths)), fresh(groups, draw(lengths)), spares)


def _spares(idle: int, staying: int, outputs: bool) -> bool:
    return idle > 1 or outputs


def _not_empty(draw: Any, fresh: Fresh) -> Constraint:
    return NotEmpty(fresh(draw(lengths), draw(lengths)), fresh(draw(lengths)))


def _contiguous(draw: Any, fresh: Fresh) -> Constraint:
    return Contiguous(fresh(draw(lengths)))


def _representative(draw: Any, fresh: Fresh) -> Constraint:
    ids = fresh(draw(lengths), draw(st.integers(1, 4)))
    return Representative(TENSOR, ids, draw(arrays(np.float64, ids.shape, elements=st.sampled_from((0, 1, -2, 20)))))


def _round_up(draw: Any, fresh: Fresh) -> Constraint:
    multiple = draw(lengths)
    ids = fresh(draw(lengths), draw(st.integers(1, 5)))
    return RoundUp(ids, lambda count, most: min(-(-count // multiple) * multiple, most))


def _head_sizes(draw: Any, fresh: Fresh) -> Constraint:
    groups, heads, size, width = (draw(lengths) for _ in range(4))
    keys, values = fresh(groups, size), fresh(groups, width)
    packed = heads == 1 and draw(st.booleans())  # queries and keys as one, as where a node projects them itself
    queries = keys[:, None] if packed else fresh(groups, heads, size)
    others = tuple(fresh(groups, heads) for _ in range(draw(st.integers(0, 1))))
    multiple, alike = draw(st.integers(1, 2)), draw(st.booleans())
    return HeadSizes(queries, keys, fresh(groups, heads, width), values, others, multiple, alike, "Attention")


def _same_in_each_head(draw: Any, fresh: Fresh) -> Constraint:
    """Some elements of a head may be beside all pairs."""
    pairs = draw(lengths)
    order = np.array(draw(st.permutations(range(2 * pairs + draw(st.integers(0, 1))))))
    columns = tuple(fresh(pairs) for _ in range(draw(st.integers(0, 2))))
    heads = fresh(draw(lengths), len(order))
    return SameInEachHead(heads, order[: 2 * pairs].reshape(pairs, 2), columns, "RotaryEmbedding")


def _products(draw: Any, fresh: Fresh) -> Constraint:
    heads, size = draw(lengths), draw(lengths)
    return Products(fresh(heads, size), fresh(heads, draw(lengths)), draw(arrays(np.bool_, (heads, size))))


def _recurrence(draw: Any, fresh: Fresh) -> Constraint:
    units = draw(st.integers(1, 5))
    return Recurrence(fresh(units), draw(arrays(np.bool_, (units, units))), "a recurrence")


def _norm_representatives(draw: Any, fresh: Fresh) -> Constraint:
    ids = fresh(draw(st.integers(1, 6)))
    constants = (0.0, 1.0, 1.1, 2.0, -7.0)
    values = st.sampled_from((np.nan, *constants) if draw(st.booleans()) else constants)
    return NormRepresentatives(
        TENSOR, ids, draw(arrays(np.float64, ids.shape, elements=values)), Earlier(), {}, one=draw(st.booleans())
    )


def _extremes(draw: Any, fresh: Fresh) -> Constraint:
    units = draw(st.integers(1, 5))
    return Extremes(fresh(units), draw(arrays(np.bool_, (units,))), "a recurrence")


def _stand_ins(draw: Any, fresh: Fresh) -> Constraint:
    """Few inputs and small weights, so that all ways to stand in can be tried."""
    ids = fresh(draw(st.integers(1, 2)), draw(st.integers(1, 4)))
    steps = draw(arrays(np.int64, ids.shape, elements=st.sampled_from((0, 1, 2, 3, -5))))
    shape = (len(ids), draw(st.integers(1, 2)), ids.shape[1], 1)
    weights = draw(arrays(np.int64, shape, elements=st.integers(-2, 2)))
    return StandIns(TENSOR, ids, Constants(steps, weights, np.ones((1, 1, 1, 1)), -2, 2))


DRAWN: dict[type[Constraint], Callable[[Any, Fresh], Constraint]] = {
    Box: _box,
    Broadcast: _broadcast,
    Rows: _rows,
    Copies: _copies,
    Groups: _groups,
    NotEmpty: _not_empty,
    Representative: _representative,
    Contiguous: _contiguous,
    RoundUp: _round_up,
    HeadSizes: _head_sizes,
    SameInEachHead: _same_in_each_head,
    Products: _products,
    Recurrence: _recurrence,
    NormRepresentatives: _norm_representatives,
    Extremes: _extremes,
    StandIns: _stand_ins,
}


@st.composite
def constraints(
    draw: Any, kinds: Sequence[type[Constraint]], distinct: bool = False
) -> tuple[list[Constraint], Classes]:
    """Draw one constraint of each kind, on identifiers, and the class of each identifier; several may share one."""
    fresh = Fresh()
    found = [DRAWN[kind](draw, fresh) for kind in kinds]
    shared = not distinct and draw(st.booleans())
    return found, draw(generators).integers(0, fresh.count, fresh.count) if shared else np.arange(fresh.count)


@st.composite
def kept_sets(draw: Any, classes: int) -> Kept:
    """Draw which classes stay, few or many, what each costs, and what is live."""
    live = {TENSOR: np.array([draw(st.booleans())])} if draw(st.booleans()) else {}
    return kept_of(draw(masks(classes)), draw(generators).integers(0, 4, classes).astype(float), live)


@st.composite
def masks(draw: Any, classes: int) -> Bools:
    """Draw some classes, few or many."""
    share: float = draw(st.sampled_from((0.05, 0.2, 0.5, 0.8)))
    return np.asarray(draw(generators).random(classes) < share)


def kept_of(mask: Bools, cost: npt.NDArray[np.float64] | None = None, live: dict[str, Bools] | None = None) -> Kept:
    """Return a state in which just these classes stay."""
    cost = np.ones(mask.size) if cost is None else cost
    return Kept(mask.copy(), np.full(mask.size, None, dtype=object), cost, live or {})


def enforce(found: Sequence[Constraint], kept: Kept) -> None:
    """Enforce constraints in this order, again and again, until nothing is added."""
    before = -1
    while kept.additions != before:
        before = kept.additions
        for constraint in found:
            constraint.enforce(kept)


# -- what each promises ------------------------------------------------------------------------------------------------


def holds(constraint: Constraint, kept: Kept, stays: Bools | None = None) -> bool:
    """Whether a relation holds between the classes that stay (by default those of ``kept``)."""
    found: bool = _HOLDS[type(constraint)](constraint, kept.mask if stays is None else stays, kept)
    return found


def _box_holds(box: Box, stays: Bools, kept: Kept) -> bool:
    there = [index for index in np.ndindex(box.ids.shape) if stays[box.ids[index]]]
    if box.strict:
        sides = [{index[axis] for index in there} for axis in range(box.ids.ndim)]
        return len(there) == int(np.prod([len(side) for side in sides]))
    last = [axis for axis, length in enumerate(box.ids.shape) if length > 1][-1]
    rows = [index[:last] + index[last + 1 :] for index in there]
    sides = [{row[axis] for row in rows} for axis in range(box.ids.ndim - 1)]
    whole = len(set(rows)) == int(np.prod([len(side) for side in sides]))
    return whole and len({rows.count(row) for row in rows}) <= 1


def _beside(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the place in a smaller array of an element of a bigger one."""
    return tuple(0 if length == 1 else place for place, length in zip(index, shape, strict=True))


def _slots(big: Classes, axes: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Yield for each element its place, where it is along the axes, and where along all others."""
    for index in np.ndindex(big.shape):
        along = tuple(place for axis, place in enumerate(index) if axis in axes)
        yield index, along, tuple(place for axis, place in enumerate(index) if axis not in axes)


def _broadcast_holds(it: Broadcast, stays: Bools, kept: Kept) -> bool:
    repeats = {along for index, along, _ in _slots(it.big, it.axes) if stays[it.big[index]]}
    for index, along, _ in _slots(it.big, it.axes):
        small = stays[it.small[_beside(index, it.small.shape)]]
        if stays[it.big[index]] != (small and along in repeats):
            return False
    return True


def _rows_hold(it: Rows, stays: Bools, kept: Kept) -> bool:
    if not any(stays[each] for each in it.output.ravel()):
        return True
    there: dict[tuple[int, ...], list[bool]] = {}
    stands: dict[tuple[int, ...], bool] = {}
    for index, _, row in _slots(it.big, it.axes):
        there.setdefault(row, []).append(stays[it.big[index]])
        stands[row] = stays[it.small[_beside(index, it.small.shape)]]
    return all(any(there[row]) == stands[row] for row in there)


def _copies_hold(it: Copies, stays: Bools, kept: Kept) -> bool:
    rows = {row for index, _, row in _slots(it.copies, it.axes) if stays[it.copies[index]]}
    return all(
        stays[it.copies[index]] == (row in rows and stays[it.source[index]])
        for index, _, row in _slots(it.copies, it.axes)
    )


def _groups_hold(it: Groups, stays: Bools, kept: Kept) -> bool:
    counts = [(stays[read].sum(), stays[computed].sum()) for read, computed in zip(it.inputs, it.outputs, strict=True)]
    whole = [pair for pair in counts if all(pair)]
    for place in (0, 1):
        side = [pair for pair in counts if pair[place]]
        idle = sum(not all(pair) for pair in side)
        if idle and not (whole and it.spares is not None and it.spares(idle, len(side), bool(place))):
            return False
    return len(set(whole)) <= 1


def _not_empty_holds(it: NotEmpty, stays: Bools, kept: Kept) -> bool:
    return not any(stays[each] for each in it.outputs.ravel()) or any(stays[each] for each in it.inputs.ravel())


def _contiguous_holds(it: Contiguous, stays: Bools, kept: Kept) -> bool:
    row = stays[it.ids]
    return not row.any() or bool(row[row.argmax() : len(row) - row[::-1].argmax()].all())


def _representative_holds(it: Representative, stays: Bools, kept: Kept) -> bool:
    if not kept.live.get(TENSOR, np.array([False])).any():
        return True
    for ids, constants in zip(it.ids, np.abs(it.constants), strict=True):
        gone = [value for each, value in zip(ids, constants, strict=True) if not stays[each]]
        here = [value for each, value in zip(ids, constants, strict=True) if stays[each]]
        if any(gone) and not any(value > 0 and value * 16 >= max(gone) for value in here):
            return False
    return True


def _round_up_holds(it: RoundUp, stays: Bools, kept: Kept) -> bool:
    counts = [int(stays[row].sum()) for row in it.ids if stays[row].any()]
    size = it.ids.shape[1]
    if not counts or max(counts) == size:
        return True
    return len(set(counts)) == 1 and counts[0] >= it.target(counts[0], size)


def _head_sizes_hold(it: HeadSizes, stays: Bools, kept: Kept) -> bool:
    groups, heads, _ = it.queries.shape
    sizes: set[tuple[int, int, int]] = set()
    for group in range(groups):
        keys, values = list(stays[it.keys[group]]), list(stays[it.values[group]])
        there = []
        for head in range(heads):
            own = list(stays[it.queries[group, head]]), list(stays[it.outputs[group, head]])
            if any(own[0]) or any(own[1]) or any(stays[other[group, head]] for other in it.others):
                there.append(own)
        if any(own != (keys, values) for own in there):
            return False
        if there or any(keys) or any(values):
            sizes.add((len(there), sum(keys), sum(values)))
    return len(sizes) <= 1 and all(_sizes_fit(it, *each) for each in sizes)


def _sizes_fit(it: HeadSizes, heads: int, keys: int, values: int) -> bool:
    wanted = (max(keys, values),) * 2 if it.alike else (keys, values)
    rounded = [-(-count // it.multiple) * it.multiple for count in wanted]
    most = it.keys.shape[1], it.values.shape[1]
    return heads > 0 and keys > 0 and values > 0 and (keys, values) == tuple(map(min, rounded, most))


def _same_in_each_head_holds(it: SameInEachHead, stays: Bools, kept: Kept) -> bool:
    there = {tuple(bool(stays[each]) for each in head) for head in it.heads if stays[head].any()}
    if not there:
        return True
    kept_elements = next(iter(there))
    turned = [(kept_elements[first], kept_elements[second]) for first, second in it.pairs]
    columns = [any(stays[column[place]] for column in it.columns) for place in range(len(turned))]
    whole = all(first == second for first, second in turned) and any(first for first, _ in turned)
    return (
        len(there) == 1 and whole and all(pair[0] or not wanted for pair, wanted in zip(turned, columns, strict=True))
    )


def _products_hold(it: Products, stays: Bools, kept: Kept) -> bool:
    heads = [head for head in range(len(it.values)) if any(stays[each] for each in it.values[head])]
    return all(stays[each] for head in heads for each in it.products[head][it.matters[head]])


def _recurrence_holds(it: Recurrence, stays: Bools, kept: Kept) -> bool:
    pairs = np.argwhere(it.reads)
    return all(stays[it.units[read]] or not stays[it.units[reader]] for reader, read in pairs)


def _norm_representatives_hold(it: NormRepresentatives, stays: Bools, kept: Kept) -> bool:
    """What leaves follows from one equal constant, or from two that are a quarter as far apart as it is from them."""
    gone = [float(value) for each, value in zip(it.ids, it.constants, strict=True) if not stays[each]]
    here = [float(value) for each, value in zip(it.ids, it.constants, strict=True) if stays[each]]
    here = [value for value in here if value == value]
    if not kept.live.get(TENSOR, np.array([False])).any() or not gone or any(value != value for value in gone):
        return True
    if it.one or not here:
        return bool(here)
    if len(set(gone)) == 1 and gone[0] in here:
        return True
    gap, reach = max(here) - min(here), max(max(gone) - min(gone), *(abs(value - min(here)) for value in gone))
    return gap > 0 and 4 * gap >= reach


def _extremes_hold(it: Extremes, stays: Bools, kept: Kept) -> bool:
    extreme = [stays[each] for each, sets in zip(it.units, it.extreme, strict=True) if sets]
    return not any(stays[each] for each in it.units) or all(extreme)


def _stand_ins_hold(it: StandIns, stays: Bools, kept: Kept) -> bool:
    """What all constants of a group add up to is what some weights of those that stay do, where one was lost."""
    for group, ids in enumerate(it.ids):
        steps = it.constants.steps[group]
        gone = [each for each, step in zip(ids, steps, strict=True) if step and not stays[each]]
        if not gone or not kept.live.get(TENSOR, np.array([False])).any():
            continue
        here = [int(step) for each, step in zip(ids, steps, strict=True) if step and stays[each]]
        weights = product(range(it.constants.least, it.constants.most + 1), repeat=len(here))
        sums = {sum(w * step for w, step in zip(own, here, strict=True)) for own in weights}
        if not set(it.constants.totals[group].ravel().tolist()) <= sums:
            return False
    return True


_HOLDS: dict[type[Constraint], Callable[[Any, Bools, Kept], bool]] = {
    Box: _box_holds,
    Broadcast: _broadcast_holds,
    Rows: _rows_hold,
    Copies: _copies_hold,
    Groups: _groups_hold,
    NotEmpty: _not_empty_holds,
    Representative: _representative_holds,
    Contiguous: _contiguous_holds,
    RoundUp: _round_up_holds,
    HeadSizes: _head_sizes_hold,
    SameInEachHead: _same_in_each_head_holds,
    Products: _products_hold,
    Recurrence: _recurrence_holds,
    NormRepresentatives: _norm_representatives_hold,
    Extremes: _extremes_hold,
    StandIns: _stand_ins_hold,
}
