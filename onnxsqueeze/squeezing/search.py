"""From a goal to networks: sizes are tried until one is as small, or as good, as was asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.allocation import Search
from onnxsqueeze.squeezing.goals import Goal
from onnxsqueeze.squeezing.ladders import Ladder, Network, Tell
from onnxsqueeze.squeezing.learner import Learner
from onnxsqueeze.squeezing.metrics import Judge
from onnxsqueeze.squeezing.points import Maker
from onnxsqueeze.squeezing.report import Point, Taken, joined
from onnxsqueeze.squeezing.samples import Part

_TRIES, _CLOSE = 5, 1.04
_TOO_SMALL = 1.08  # times smaller than was asked for
_TRAININGS, _FURTHER = 3, 1.4  # trainings of ever smaller networks where only the drop is given


@dataclass
class Start:
    """Where the network that is squeezed came from.

    Attributes:
        model: the network, without biases that were added to it. whole: what the original costs; 0 if it is that.
        taken: what each layer lost before. points: all networks that were made.
    """

    model: Model
    whole: float = 0.0
    taken: tuple[Taken, ...] = ()
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Lessons:
    """A learner, and what it learns from.

    Attributes:
        learner: trains. seconds: for how long. part: samples. judge: how outputs are compared. seed: of the training.
    """

    learner: Learner
    seconds: float
    part: Part
    judge: Judge
    seed: int

    def learn(self, model: Model, original: Model, seconds: float, tell: Tell) -> tuple[Model, bool]:
        """Train a model; see `Learner`."""
        return self.learner.learn(model, original, self.part, self.judge, seconds, self.seed, tell)


class GoalSearch:
    """Makes networks until one meets the goal.

    Attributes:
        goal: what is asked for. points: those that were made, of earlier searches as well.
        whole: what the original costs.
    """

    def __init__(
        self,
        goal: Goal,
        maker: Maker,
        network: Network,
        ladders: Sequence[Ladder],
        start: Start,
        learning: Lessons | None,
        tell: Tell,
    ) -> None:
        """Begin with the sizes.

        Args:
            goal: what is asked for. maker: makes networks. network, ladders: what is known of the one that is squeezed.
            start: where it came from. learning: trains what was found; None without. tell: is told how far it is.
        """
        self.points = start.points
        self.goal, self._maker, self._network, self._ladders = goal, maker, network, ladders
        self._start, self._learning, self._tell = start, learning, tell
        units = network.units
        cost: Callable[..., float] = units.macs_left if goal.counts_macs else units.left
        self._path = Search(ladders, cost, len(units), units.read)
        self.whole = start.whole or self._path.steps[0].cost
        self._made: dict[tuple[int, ...], Point] = {}

    def run(self, front: bool) -> None:
        """Make networks, those of sizes between as well with ``front``.

        Raises:
            KeyboardInterrupt: when it was stopped; what was made until then is in ``points``.
        """
        if not self.goal.sizes:
            self._within(math.inf)
            self._train_further()
            return
        if front:
            self._series()
        point = self._sized()
        if self._learning is not None:
            point = self._trained(point, self._learning.seconds)
        if not self._allowed(point):
            self._within(max(self._times(point) for point in self.points))

    def _make(self, times: float) -> Point:
        """Make the network that costs so many times less."""
        step = self._path.at(self.whole / times)
        if step.sizes not in self._made:
            made = self._maker.make(
                self._network, self._ladders, step, self._start.model, self._tell, self.goal.latency is not None
            )
            made = replace(made, taken=joined(self._start.taken, made.taken))
            self._made[step.sizes] = made
            self.points.append(made)
        return self._made[step.sizes]

    def _trained(self, point: Point, seconds: float) -> Point:
        """Train a network and measure it."""
        assert self._learning is not None
        model, interrupted = self._learning.learn(point.model, self._maker.original, seconds, self._tell)
        found = self._maker.measured(model, point.macs, point.taken, self.goal.latency is not None, seconds)
        self.points.append(found)
        if interrupted:
            raise KeyboardInterrupt
        return found

    def _train_further(self) -> None:
        """Where the drop alone is the goal, train networks that fell by more, the next smaller ones."""
        allowed = [point for point in self.points if self._allowed(point)]
        if self._learning is None:
            return
        times = max((self._times(point) for point in allowed), default=1.0)
        for _ in range(_TRAININGS):
            times *= _FURTHER
            if not self._allowed(self._trained(self._make(times), self._learning.seconds / _TRAININGS)):
                return

    def _times(self, point: Point) -> float:
        return point.macs_ratio if self.goal.counts_macs else point.ratio

    def _lacking(self, point: Point) -> float:
        """Return how many times smaller a point would have to be for the goal; 1 or less where it meets it."""
        goal = self.goal
        if goal.ratio is not None:
            return goal.ratio / point.ratio
        if goal.macs is not None:
            return goal.macs / point.macs_ratio
        if goal.bytes is not None:
            return point.bytes / goal.bytes
        return 1.0 if goal.latency is None or point.latency is None else point.latency / goal.latency

    def _sized(self) -> Point:
        """Make networks until one is as small as was asked, or nothing more can go."""
        goal = self.goal
        most = self.whole / max(self._path.steps[-1].cost, 1.0)
        first = goal.ratio or goal.macs
        if goal.bytes is not None:
            first = max(1.01, self._maker.bytes / goal.bytes)
        times = min(most, first or 1 / (goal.latency or 1.0))
        tried = [(1.0, self._asked()), (1 / times, self._lacking(point := self._make(times)))]
        for _ in range(_TRIES):
            if tried[-1][1] <= 1 or times >= most:
                break
            times = min(most, max(1.01 * times, 1 / _where_one(tried)))
            point = self._make(times)
            tried.append((1 / times, self._lacking(point)))
        return self._not_too_small(tried, point)

    def _not_too_small(self, tried: Sequence[tuple[float, float]], point: Point) -> Point:
        """Return the largest network that meets the goal, between the last that does and the last that does not."""
        larger, smaller = next((1 / size for size, lacking in tried[::-1] if lacking > 1), 1.0), 1 / tried[-1][0]
        for _ in range(_TRIES):
            if not 0 < self._lacking(point) < 1 / _TOO_SMALL or smaller / larger < _CLOSE:
                break
            middle = math.sqrt(larger * smaller)
            found = self._make(middle)
            if self._lacking(found) <= 1:
                smaller, point = middle, found
            else:
                larger = middle
        return point

    def _asked(self) -> float:
        """Return how many times smaller the original would have to be."""
        goal = self.goal
        size = goal.ratio or goal.macs or (1 / goal.latency if goal.latency else None)
        return size or self._maker.bytes / (goal.bytes or self._maker.bytes)

    def _allowed(self, point: Point) -> bool:
        limit = self.goal.max_drop
        return limit is None or point.drop <= limit + 1e-9

    def _within(self, most: float) -> None:
        """Look for the smallest network within the drop: twice as small again and again, then between."""
        most = min(most, self.whole / max(self._path.steps[-1].cost, 1.0))
        low, high = 1.0, 2.0
        while high < most and self._allowed(self._make(high)):
            low, high = high, high * 2
        high = min(high, most)
        while high / low > _CLOSE and len(self._made) < 3 * _TRIES:
            middle = math.sqrt(low * high)
            if self._allowed(self._make(middle)):
                low = middle
            else:
                high = middle
            if high / low < 1.1:
                break

    def _series(self) -> None:
        """Make networks of sizes between, each half as large again."""
        target = self.goal.ratio or self.goal.macs or 16.0
        times = 1.5
        while times < target:
            self._make(times)
            times *= 1.5

    def chosen(self) -> tuple[Point, str]:
        """Return the answer, and why it does not meet the goal, "" if it does."""
        allowed = [point for point in self.points if self._allowed(point)]
        meeting = [point for point in allowed if not self.goal.sizes or self._lacking(point) <= 1]
        if meeting:
            if not self.goal.sizes:
                return max(meeting, key=lambda point: (self._times(point), point.trained)), ""
            return min(meeting, key=lambda point: (self._times(point), -point.trained)), ""
        if allowed:
            best = max(allowed, key=lambda point: (self._times(point), point.trained))
            return best, f"{self.goal}: {self._times(best):.3g} times is the best that could be reached"
        best = min(self.points, key=lambda point: point.drop)
        return best, f"{self.goal}: even {self._times(best):.3g} times falls by {best.drop:.2f} points"


def _where_one(tried: Sequence[tuple[float, float]]) -> float:
    """Return the size at which as much as was asked is left, a little below: on the line through the last two tried.

    Args:
        tried: sizes as shares of the original, and how many times too much was left of what was asked for. A part of
            time and bytes does not depend on the size.
    """
    (size, lacking), (smaller, less) = tried[-2:]
    slope = (lacking - less) / (size - smaller) if size > smaller else 0.0
    found = smaller + (1 - less) / slope if slope > 0 else 0.0
    return max(0.99 * found, smaller / 8)  # not too far at once
