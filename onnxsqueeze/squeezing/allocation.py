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
Read = Callable[[Bools], Bools]
_AHEAD = 6  # so many steps of one ladder are weighed against each other, since errors do not grow evenly


@dataclass(frozen=True)
class Step:
    """One state of the search.

    Attributes:
        sizes: of each family. cost: what the network would cost. error: the sum of the errors.
        moved: the family whose size was the last to change; -1 for the dense network.
    """

    sizes: tuple[int, ...]
    cost: float
    error: float
    moved: int = -1


class Search:
    """The way from the dense network to the smallest: at each step what loses least for what it saves.

    Families that lie on the way to one that leaves as a whole go with it, and what they would lose alone does not count
    any more: that is how a residual block, of which nothing is left but its mean, is weighed against single units.

    Attributes:
        steps: of the way, from the dense network on.
    """

    def __init__(self, ladders: Sequence[Ladder], cost: Cost, units: int, read: Read = np.logical_not) -> None:
        """Search.

        Args:
            ladders: of all families. cost: of the network without some units. units: how many the network has.
            read: which units the outputs still depend on without some; by default all others.
        """
        self._ladders, self._cost, self._units, self._read = ladders, cost, units, read
        self._read_by_all = read(np.zeros(units, dtype=bool))
        self._known_followers: dict[int, frozenset[int]] = {}
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
            if not ladders[number].sizes[target]:
                for follower in self._followers(number):
                    self._places[follower] = len(ladders[follower].sizes) - 1
            self.steps.append(self._step(self._sizes(self._places), number))
            self._weigh(number)

    def _sizes(self, places: Sequence[int]) -> tuple[int, ...]:
        return tuple(ladder.sizes[place] for ladder, place in zip(self._ladders, places, strict=True))

    def _followers(self, number: int) -> frozenset[int]:
        """Return the families on which the outputs depend through one alone."""
        if number not in self._known_followers:
            before, now = self._read_by_all, self._read(self._ladders[number].removed(0, self._units))
            self._known_followers[number] = frozenset(
                other
                for other, ladder in enumerate(self._ladders)
                if other != number and before[ladder.family.units].any() and not now[ladder.family.units].any()
            )
        return self._known_followers[number]

    def _following(self, sizes: Sequence[int]) -> set[int]:
        """Return the families that go with others of which nothing is left."""
        found: set[int] = set()
        for number in (number for number, size in enumerate(sizes) if not size):
            if number not in found:  # where two depend on each other, one of them leads
                found |= self._followers(number)
        return found

    def _step(self, sizes: Sequence[int], moved: int = -1) -> Step:
        following = self._following(sizes)
        own = tuple(0 if number in following else size for number, size in enumerate(sizes))
        error = sum(
            ladder.error(size)
            for number, (ladder, size) in enumerate(zip(self._ladders, own, strict=True))
            if number not in following
        )
        return Step(own, self._cost(self._removed(own)), float(error), moved)

    def _removed(self, sizes: Sequence[int]) -> Bools:
        removed = np.zeros(self._units, dtype=bool)
        for ladder, size in zip(self._ladders, sizes, strict=True):
            removed |= ladder.removed(size, self._units)
        return removed

    def _weigh(self, number: int) -> None:
        """Weigh the next steps of one ladder, if there are any, and remember the best."""
        ladder, place = self._ladders[number], self._places[number]
        ahead = np.arange(place + 1, min(place + 1 + _AHEAD, len(ladder.sizes)))
        if not ahead.size:
            return
        sizes, errors, now = np.array(ladder.sizes), np.array(ladder.errors), self.steps[-1]
        last = list(now.sizes)
        last[number] = int(sizes[ahead[-1]])
        saved = now.cost - self._cost(self._removed(last))
        gain = saved * (sizes[place] - sizes[ahead]) / (sizes[place] - sizes[ahead[-1]])
        lost = errors[ahead] - errors[place]
        if not last[number] and self._followers(number):
            whole = self._step(last)
            gain[-1], lost[-1] = now.cost - whole.cost, whole.error - now.error
        if gain.max() > 0:
            value = np.where(gain > 0, lost / np.where(gain > 0, gain, 1.0), np.inf)
            best = int(np.argmin(value))
            heapq.heappush(self._heap, (float(value[best]), number, int(ahead[best]), len(self.steps)))

    def at(self, cost: float) -> Step:
        """Return the state that costs no more, and as little less as there is; the last where none does."""
        number = next((number for number, step in enumerate(self.steps) if step.cost <= cost), len(self.steps) - 1)
        after, before = self.steps[number], self.steps[max(0, number - 1)]
        if after.cost > cost or number == 0:
            return after
        moved = after.moved
        low, high = after.sizes[moved], before.sizes[moved]  # at ``low`` it is cheap enough, at ``high`` it is not
        best = after
        while high - low > 1:
            middle = self._ladders[moved].rounded((low + high) // 2)
            if middle >= high:  # nothing between stays as it is
                high = (low + high) // 2
                continue
            found = self._step([*before.sizes[:moved], middle, *before.sizes[moved + 1 :]], moved)
            if found.cost <= cost:
                low, best = middle, found
            else:
                high = middle
        return best
