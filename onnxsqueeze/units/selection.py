"""Which units leave: the cheapest for what they cost, in one ranking of all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxsqueeze.units.units import Bools, Floats, Units

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Floors:
    """What must stay in each layer.

    Attributes:
        units: channels of those side by side in a layer, and dims of a head.
        share: of those units, as a fraction of the dense layer.
        heads: of each attention, and groups of a convolution.
    """

    units: int = 4
    share: float = 0.02
    heads: int = 1

    def of(self, count: int, head: bool, channels: float = 1.0) -> int:
        """Return how many of ``count`` units of so many channels each stay; never none."""
        least = self.heads if head else int(np.ceil(max(self.units / channels, self.share * count)))
        return max(1, min(least, count))


@dataclass(frozen=True)
class _Choices:
    """What can be removed in one step each: values, and the units of each as (choice of each entry, its unit)."""

    value: Floats
    owner: Classes
    units: Classes


def select(
    units: Units,
    scores: Floats,
    target_elements: float,
    *,
    cost: Floats | None = None,
    removed: Bools | None = None,
    floors: Floors = Floors(),  # noqa: B008  (frozen)
) -> Bools:
    """Remove units until about a number of weight elements is left, those first whose score is least for their cost.

    Heads and groups of convolutions leave whole; of dims each head loses the same number, its own cheapest.

    Args:
        units: of the dense network.
        scores: of each unit, larger where it matters more; one of infinity never leaves.
        target_elements: how many weight elements are to be left in the minimized model.
        cost: of each unit; the weight elements that leave with it by default.
        removed: units that have left before, which stay removed.
        floors: what must stay in each layer.

    Returns:
        Which units are removed, those of before included. Fewer than asked for where the floors say so.
    """
    before = np.zeros(len(units), dtype=bool) if removed is None else units.gone(removed) | removed
    cost = units.cost("parameters", before) if cost is None else cost
    choices = _choices(units, np.asarray(scores, np.float64), cost, before, floors)
    order = np.argsort(choices.value, kind="stable")
    order = order[np.isfinite(choices.value[order])]
    rank = np.full(choices.value.size, choices.value.size)
    rank[order] = np.arange(order.size)
    turn = np.full(len(units), choices.value.size)
    np.minimum.at(turn, choices.units, rank[choices.owner])
    low, high = 0, order.size
    while low < high:
        middle = (low + high) // 2
        if units.left(before | (turn < middle)) > target_elements:
            low = middle + 1
        else:
            high = middle
    return np.asarray(before | (turn < low))


def _choices(units: Units, scores: Floats, cost: Floats, gone: Bools, floors: Floors) -> _Choices:
    ratio = np.where(cost > 0, scores / np.where(cost > 0, cost, 1.0), np.inf)
    ratio[gone | _protected(units, ratio, gone, floors)] = np.inf
    in_tables = np.zeros(len(units), dtype=bool)
    for table in units.tables:
        in_tables[table] = True
    single = np.nonzero(~in_tables)[0]
    values, owners, members = [ratio[single]], [np.arange(single.size)], [single]
    count = single.size
    for level in _levels(units, scores, gone, floors):
        total = cost[level].sum()
        values.append(np.array([scores[level].sum() / total if total > 0 else np.inf]))
        owners.append(np.full(level.size, count))
        members.append(level)
        count += 1
    return _Choices(np.concatenate(values), np.concatenate(owners), np.concatenate(members))


def _protected(units: Units, ratio: Floats, gone: Bools, floors: Floors) -> Bools:
    """Mark the best units of each layer, which stay."""
    found = np.zeros(len(units), dtype=bool)
    heads = units.of_kind("head")
    for group in units.groups:
        there = group[~gone[group]]
        least = floors.of(group.size, bool(heads[group[0]]), float(units.channels[group].min()))
        found[there[np.argsort(ratio[there], kind="stable")[max(0, there.size - least) :]]] = True
    return found


def _levels(units: Units, scores: Floats, gone: Bools, floors: Floors) -> Iterator[Classes]:
    """Yield sets of dims, one of each head that is there: first the least of each, last the greatest that may leave."""
    for table in units.tables:
        there = table[(~gone[table]).any(axis=1)]
        if not there.size:
            continue
        ranked = np.argsort(np.where(gone[there], np.inf, scores[there]), axis=1, kind="stable")
        ordered = np.take_along_axis(there, ranked, axis=1)
        size = int((~gone[there]).sum(axis=1).min())
        for place in range(size - floors.of(table.shape[1], False)):
            yield ordered[:, place]
