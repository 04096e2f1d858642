"""How many units each family keeps: the search over the database for the least error at a size of the whole."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxsqueeze.squeezing.ladders import Ladder

Bools = npt.NDArray[np.bool_]
Cost = Callable[[Bools], float]
_AHEAD = 6  # so many steps of one ladder are weighed against each other, since errors do not grow evenly


@dataclass(frozen=True)
class Step:
    """One state of the search: the place on each ladder, what the network would cost, the sum of the errors."""

    places: tuple[int, ...]
    cost: float
    error: float


def path(ladders: Sequence[Ladder], cost: Cost, units: int) -> list[Step]:
    """Return the way from the dense network to the smallest: at each step what loses least for what it saves.

    Args:
        ladders: of all families. cost: of the network without some units. units: how many the network has.
    """
    places = [0] * len(ladders)
    price = cost(_removed(ladders, places, units))
    found = [Step(tuple(places), price, 0.0)]
    heap: list[tuple[float, int, int, int]] = []
    for number in range(len(ladders)):
        _push(heap, ladders, places, number, cost, price, units, 0)
    stamp = 0
    while heap:
        _, number, target, seen = heapq.heappop(heap)
        if seen < stamp and _push(heap, ladders, places, number, cost, price, units, stamp):
            continue  # it was weighed when other layers had other sizes
        if seen < stamp:
            continue
        places[number] = target
        price = cost(_removed(ladders, places, units))
        stamp += 1
        found.append(Step(tuple(places), price, _error(ladders, places)))
        _push(heap, ladders, places, number, cost, price, units, stamp)
    return found


def _push(
    heap: list[tuple[float, int, int, int]],
    ladders: Sequence[Ladder],
    places: Sequence[int],
    number: int,
    cost: Cost,
    price: float,
    units: int,
    stamp: int,
) -> bool:
    """Weigh the next steps of one ladder; False if there is none."""
    ladder, place = ladders[number], places[number]
    best: tuple[float, int] | None = None
    ahead = range(place + 1, min(place + 1 + _AHEAD, len(ladder.sizes)))
    if not ahead:
        return False
    last = list(places)
    last[number] = ahead[-1]
    saved = price - cost(_removed(ladders, last, units))
    span = ladder.sizes[place] - ladder.sizes[ahead[-1]]
    each = max(saved, 0.0) / span
    for target in ahead:
        gain = each * (ladder.sizes[place] - ladder.sizes[target])
        grown = ladder.errors[target] - ladder.errors[place]
        value = grown / gain if gain > 0 else np.inf
        if best is None or value < best[0]:
            best = (value, target)
    assert best is not None
    if not np.isfinite(best[0]):
        return False
    heapq.heappush(heap, (best[0], number, best[1], stamp))
    return True


def _removed(ladders: Sequence[Ladder], places: Sequence[int], units: int) -> Bools:
    found = np.zeros(units, dtype=bool)
    for ladder, place in zip(ladders, places, strict=True):
        found |= ladder.removed[place]
    return found


def _error(ladders: Sequence[Ladder], places: Sequence[int]) -> float:
    return float(sum(ladder.errors[place] for ladder, place in zip(ladders, places, strict=True)))


def step_at(steps: Sequence[Step], cost: float) -> Step:
    """Return the first step of a path that costs no more; the last where none does."""
    return next((step for step in steps if step.cost <= cost), steps[-1])
