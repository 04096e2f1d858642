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
    """One state of the search: the size of each family, what the network would cost, the sum of the errors."""

    sizes: tuple[int, ...]
    cost: float
    error: float


class Search:
    """The way from the dense network to the smallest: at each step what loses least for what it saves.

    Attributes:
        steps: of the way, from the dense network on.
    """

    def __init__(self, ladders: Sequence[Ladder], cost: Cost, units: int) -> None:
        """Search.

        Args:
            ladders: of all families. cost: of the network without some units. units: how many the network has.
        """
        self._ladders, self._cost, self._units = ladders, cost, units
        self._places = [0] * len(ladders)
        self.steps = [self._step(self._sizes(self._places))]
        self._heap: list[tuple[float, int, int, int]] = []
        for number in range(len(ladders)):
            self._weigh(number)
        while self._heap:
            _, number, target, seen = heapq.heappop(self._heap)
            if seen < len(self.steps):  # it was weighed when other families had other sizes
                self._weigh(number)
                continue
            self._places[number] = target
            self.steps.append(self._step(self._sizes(self._places)))
            self._weigh(number)

    def _sizes(self, places: Sequence[int]) -> tuple[int, ...]:
        return tuple(ladder.sizes[place] for ladder, place in zip(self._ladders, places, strict=True))

    def _step(self, sizes: Sequence[int]) -> Step:
        removed = np.zeros(self._units, dtype=bool)
        for ladder, size in zip(self._ladders, sizes, strict=True):
            removed |= ladder.removed(size, self._units)
        error = sum(ladder.error(size) for ladder, size in zip(self._ladders, sizes, strict=True))
        return Step(tuple(sizes), self._cost(removed), float(error))

    def _weigh(self, number: int) -> None:
        """Weigh the next steps of one ladder, if there are any, and remember the best."""
        ladder, place = self._ladders[number], self._places[number]
        ahead = np.arange(place + 1, min(place + 1 + _AHEAD, len(ladder.sizes)))
        if not ahead.size:
            return
        sizes, errors = np.array(ladder.sizes), np.array(ladder.errors)
        last = list(self._places)
        last[number] = int(ahead[-1])
        saved = self.steps[-1].cost - self._step(self._sizes(last)).cost
        if saved > 0:
            gain = saved * (sizes[place] - sizes[ahead]) / (sizes[place] - sizes[ahead[-1]])
            value = (errors[ahead] - errors[place]) / gain
            best = int(np.argmin(value))
            heapq.heappush(self._heap, (float(value[best]), number, int(ahead[best]), len(self.steps)))

    def at(self, cost: float) -> Step:
        """Return the state that costs no more, and as little less as there is; the last where none does."""
        number = next((number for number, step in enumerate(self.steps) if step.cost <= cost), len(self.steps) - 1)
        after, before = self.steps[number], self.steps[max(0, number - 1)]
        if after.cost > cost or number == 0:
            return after
        moved = int(np.nonzero(np.array(before.sizes) != np.array(after.sizes))[0][0])
        low, high = after.sizes[moved], before.sizes[moved]  # at ``low`` it is cheap enough, at ``high`` it is not
        best = after
        while high - low > 1:
            middle = (low + high) // 2
            found = self._step([*after.sizes[:moved], middle, *after.sizes[moved + 1 :]])
            if found.cost <= cost:
                low, best = middle, found
            else:
                high = middle
        return best
