"""`squeeze`: from a dense model and samples to a small one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.named_tensors import check_patterns
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import encoded_size
from onnxsqueeze.pipeline.clock import Clock
from onnxsqueeze.squeezing.allocation import Search
from onnxsqueeze.squeezing.families import families_of
from onnxsqueeze.squeezing.goals import Goal
from onnxsqueeze.squeezing.ladders import Ladder, Network, Tell, ladders_of
from onnxsqueeze.squeezing.metrics import AUTO, judge
from onnxsqueeze.squeezing.points import Maker
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.squeezing.report import Point, SqueezeReport
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import MOST, Data, Samples, read
from onnxsqueeze.units.discovery import units_of

if TYPE_CHECKING:
    from onnxsqueeze.model.sources import Source

_TRIES, _CLOSE = 5, 1.04
_LOOKED_AT = 256  # samples by which the outputs are judged
_MULTIPLE = 4  # channels of which onnxruntime's kernels like multiples


@dataclass(frozen=True)
class Squeezed:
    """What `squeeze` returns.

    Attributes:
        minimized: the small model taken apart, for saving without another copy. report: sizes, figures, layers.
    """

    minimized: Model
    report: SqueezeReport

    @cached_property
    def model(self) -> ModelProto:
        """The small model as a ModelProto."""
        return to_proto(self.minimized)


def squeeze(
    source: Source,
    data: Data,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    bytes: int | None = None,
    latency: float | None = None,
    max_drop: float | None = None,
    metric: str = AUTO,
    labels: str = "",
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    round_to: str | int = "auto",
    samples: int = MOST,
    seed: int = 0,
    front: bool = False,
    progress: Tell | None = None,
) -> Squeezed:
    """Make a dense model small: units leave, and the layers that read them are repaired by least squares.

    No training and no labels are needed. A third of the samples is never used for a choice; figures come from it. It is
    not the same function any more; the last step, which takes out what has become zero, is exact and is verified.

    Args:
        source: a path or a model in memory, which is not changed.
        data: samples: an npz file, a folder of .npy files, ``module:function``, or arrays by input name.
        ratio, macs: how many times fewer weights, or multiply-accumulates. bytes: the largest file. latency: the
            longest time, as a share of the original's. One of these at most.
        max_drop: by how many percentage points the metric may fall. Alone it asks for the smallest such network.
        metric: how outputs are judged; "auto" looks at them. labels: an array in the data that holds the classes, for
            an accuracy.
        keep, only: names or glob patterns of tensors of which no unit may go, or only theirs.
        round_to: see `onnxsqueeze.minimize`; "auto" is 1 where the goal is a size.
        samples: how many to use for choices at most. seed: of all that is drawn.
        front: whether to make networks of sizes between as well.
        progress: is told how far the work is.

    Raises:
        InvalidModelError: when the model cannot be read or is not valid.
        UsageError: for an argument or samples that cannot be followed.
        VerificationError: when the exact step differs from what it was given.
    """
    goal = Goal(ratio, macs, bytes, latency, max_drop)
    if round_to == "auto" and not goal.counts_macs:
        round_to = 1  # the goal is a size
    tell = progress or (lambda phase, fraction: None)
    clock = Clock()
    tell("loading", None)
    original = with_initializers(load(source))
    given = read(data, original, labels, samples, seed)
    network, ladders = _known(original, given, metric, keep, only, round_to, seed, tell, clock)
    wishes = {"round_to": round_to, "keep": keep}
    search = _Search(goal, Maker(original, network, ladders, given.held_out, wishes), network, ladders, tell)
    interrupted = False
    try:
        search.run(front)
    except KeyboardInterrupt:
        if not search.points:
            raise
        interrupted = True
    clock.lap("squeeze")
    chosen, why = search.chosen()
    report = SqueezeReport(
        goal=str(goal),
        reached=not why,
        why=why,
        interrupted=interrupted,
        metric=network.judge.metric.title if given.held_out.labels is None else "accuracy",
        dense=search.maker.dense,
        calibration=len(given.calibration),
        held_out=len(given.held_out),
        weights=weight_elements(original),
        macs=round(search.maker.macs),
        bytes=encoded_size(original),
        chosen=chosen,
        points=tuple(sorted(search.points, key=lambda point: -point.weights)),
        seconds=clock.laps,
    )
    return Squeezed(chosen.model, report)


def _known(
    original: Model,
    given: Samples,
    metric: str,
    keep: Sequence[str],
    only: Sequence[str],
    round_to: str | int,
    seed: int,
    tell: Tell,
    clock: Clock,
) -> tuple[Network, list[Ladder]]:
    """Find the units, and what they are worth."""
    tell("analysing", None)
    model = with_biases(original)
    units = units_of(model, sizes=given.calibration.sizes(model.skeleton.graph.input))
    check_patterns("--keep", keep, units.analysis.context.shapes)
    check_patterns("--only", only, units.analysis.context.shapes)
    readers = tuple(readers_of(model, units))
    part = given.calibration.first(_LOOKED_AT)
    judged = judge(outputs_of(original, part), metric, part.labels)
    families = families_of(units, readers, keep, only)
    multiple = _MULTIPLE if round_to == "auto" else int(round_to)
    if round_to == "auto":  # columns of what cannot be narrowed would be gathered, which takes longer than it saves
        families = [family for family in families if family.kind != "column"]
    if not families:
        raise UsageError("no unit of this model can leave; `onnxsqueeze inspect --verbose` says what holds them")
    network = Network(model, units, readers, tuple(families), judged, given.calibration, seed, multiple)
    clock.lap("analyse")
    ladders = ladders_of(network, tell)
    clock.lap("measure")
    return network, ladders


class _Search:
    """Makes networks until one meets the goal.

    Attributes:
        points: those that were made. maker: makes them.
    """

    def __init__(self, goal: Goal, maker: Maker, network: Network, ladders: Sequence[Ladder], tell: Tell) -> None:
        self.points: list[Point] = []
        self.maker = maker
        self._goal, self._tell = goal, tell
        units = network.units
        cost: Callable[..., float] = units.macs_left if goal.counts_macs else units.left
        self._path = Search(ladders, cost, len(units))
        self._made: dict[tuple[int, ...], Point] = {}

    def run(self, front: bool) -> None:
        """Make networks."""
        if not self._goal.sizes:
            self._within(math.inf)
            return
        if front:
            self._series()
        if not self._allowed(self._sized()):
            self._within(max(self._times(point) for point in self.points))

    def _make(self, times: float) -> Point:
        """Make the network that costs so many times less."""
        step = self._path.at(self._path.steps[0].cost / times)
        if step.sizes not in self._made:
            self._made[step.sizes] = self.maker.make(step, self._tell, self._goal.latency is not None)
            self.points.append(self._made[step.sizes])
        return self._made[step.sizes]

    def _times(self, point: Point) -> float:
        return point.macs_ratio if self._goal.counts_macs else point.ratio

    def _lacking(self, point: Point) -> float:
        """Return how many times smaller a point would have to be for the goal; 1 or less where it meets it."""
        goal = self._goal
        if goal.ratio is not None:
            return goal.ratio / point.ratio
        if goal.macs is not None:
            return goal.macs / point.macs_ratio
        if goal.bytes is not None:
            return point.bytes / goal.bytes
        return 1.0 if goal.latency is None or point.latency is None else point.latency / goal.latency

    def _sized(self) -> Point:
        """Make networks until one is as small as was asked, or nothing more can go."""
        goal = self._goal
        most = self._path.steps[0].cost / max(self._path.steps[-1].cost, 1.0)
        first = goal.ratio or goal.macs
        if goal.bytes is not None:
            first = max(1.01, self.maker.bytes / goal.bytes)
        times = min(most, first or 1 / (goal.latency or 1.0))
        point = self._make(times)
        for _ in range(_TRIES):
            lacking = self._lacking(point)
            if lacking <= 1 or times >= most:
                break
            times = min(most, times * max(lacking, 1.01))
            point = self._make(times)
        return point

    def _allowed(self, point: Point) -> bool:
        limit = self._goal.max_drop
        return limit is None or point.drop <= limit + 1e-9

    def _within(self, most: float) -> None:
        """Look for the smallest network within the drop: twice as small again and again, then between."""
        most = min(most, self._path.steps[0].cost / max(self._path.steps[-1].cost, 1.0))
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
        target = self._goal.ratio or self._goal.macs or 16.0
        times = 1.5
        while times < target:
            self._make(times)
            times *= 1.5

    def chosen(self) -> tuple[Point, str]:
        """Return the answer, and why it does not meet the goal, "" if it does."""
        allowed = [point for point in self.points if self._allowed(point)]
        meeting = [point for point in allowed if not self._goal.sizes or self._lacking(point) <= 1]
        if meeting:
            if not self._goal.sizes:
                return max(meeting, key=self._times), ""
            return min(meeting, key=self._times), ""
        if allowed:
            best = max(allowed, key=self._times)
            return best, f"{self._goal}: {self._times(best):.3g} times is the best that could be reached"
        best = min(self.points, key=lambda point: point.drop)
        return best, f"{self._goal}: even {self._times(best):.3g} times falls by {best.drop:.2f} points"
