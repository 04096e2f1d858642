"""`squeeze`: from a dense model and samples to a small one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto

from onnxsqueeze.canonicalization.branches import without_constant_branches
from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.named_tensors import check_patterns
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import encoded_size
from onnxsqueeze.pipeline.clock import Clock
from onnxsqueeze.squeezing.families import families_of
from onnxsqueeze.squeezing.goals import Goal
from onnxsqueeze.squeezing.ladders import Ladder, Network, Tell, ladders_of
from onnxsqueeze.squeezing.learner import Learner
from onnxsqueeze.squeezing.metrics import AUTO, Judge, judge
from onnxsqueeze.squeezing.points import Maker
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.squeezing.report import SqueezeReport
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import MOST, Data, Part, Samples, read
from onnxsqueeze.squeezing.search import GoalSearch, Lessons, Start
from onnxsqueeze.units.discovery import units_of

if TYPE_CHECKING:
    from onnxsqueeze.model.sources import Source

_LOOKED_AT = 256  # samples by which the outputs are judged


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
    judge_by: str = "",
    labels: str = "",
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    round_to: str | int = "auto",
    samples: int = MOST,
    seed: int = 0,
    front: bool = False,
    train: Learner | None = None,
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
        metric: how outputs are judged; "auto" looks at them. judge_by: the name of the output that is; by default the
            first of floating-point numbers. labels: an array in the data that holds the classes, for an accuracy.
        keep, only: names or glob patterns of tensors of which no unit may go, or only theirs.
        round_to: see `onnxsqueeze.minimize`; "auto" is 1 where the goal is a size.
        samples: how many to use for choices at most. seed: of all that is drawn.
        front: whether to make networks of sizes between as well.
        train: trains what was squeezed on the outputs of the original, as `onnxsqueeze.training.Learning` does; what is
            to become four times smaller or more is squeezed in two steps, with a training after each.
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
    judged = _judge(original, given.calibration.first(_LOOKED_AT), metric, judge_by)
    work = _Work(original, given, judged, keep, only, round_to, seed, tell, clock)
    interrupted = work.run(goal, train, front)
    search, maker = work.search, work.maker
    chosen, why = search.chosen()
    report = SqueezeReport(
        goal=str(goal),
        reached=not why,
        why=why,
        interrupted=interrupted,
        metric=work.judge.metric.title if given.held_out.labels is None else "accuracy",
        dense=maker.dense,
        calibration=len(given.calibration),
        held_out=len(given.held_out),
        compared=work.compared,
        weights=weight_elements(original),
        macs=round(maker.macs),
        bytes=encoded_size(original),
        chosen=chosen,
        points=tuple(sorted(search.points, key=lambda point: -point.weights)),
        seconds=clock.laps,
    )
    return Squeezed(chosen.model, report)


def _judge(model: Model, part: Part, metric: str, name: str) -> Judge:
    """Return how outputs are compared: the one of a name, by default the first that can be.

    Raises:
        UsageError: for a name that is of no output; as `judge` does.
    """
    names = [value.name for value in model.skeleton.graph.output]
    if name and name not in names:
        raise UsageError(f"--judge-by {name}: the model has no such output; it has {', '.join(map(repr, names))}")
    return judge(outputs_of(model, part), metric, part.labels, names.index(name) if name else None)


class _Work:
    """The way from the dense network to small ones, in one squeeze or several.

    Attributes:
        judge: compares outputs. compared: see `SqueezeReport`. maker, search: of the squeeze that is under way.
    """

    compared: int
    maker: Maker
    search: GoalSearch

    def __init__(
        self,
        original: Model,
        given: Samples,
        judged: Judge,
        keep: Sequence[str],
        only: Sequence[str],
        round_to: str | int,
        seed: int,
        tell: Tell,
        clock: Clock,
    ) -> None:
        self._original, self._given, self._tell, self._clock = original, given, tell, clock
        self.judge = judged
        self._keep, self._only, self._round_to, self._seed = keep, only, round_to, seed

    def run(self, goal: Goal, train: Learner | None, front: bool) -> bool:
        """Squeeze, and train if a learner is given; return whether it was interrupted.

        Raises:
            KeyboardInterrupt: when it was stopped before there was any network.
        """
        named = bool(self._keep or self._only)  # names of tensors are those of the original alone
        goals = [goal] if train is None or named else goal.stages()
        start = Start(without_constant_branches(self._original))
        try:
            for number, own in enumerate(goals):
                start = self._squeezed(own, start, self._lessons(train, number, len(goals)), front and own is goal)
        except KeyboardInterrupt:
            if not start.points:
                raise
            self.search.goal = goal  # which a squeeze on the way there did not have
            return True
        return False

    def _lessons(self, train: Learner | None, number: int, count: int) -> Lessons | None:
        """Return how to train after one of several squeezes: later ones longer."""
        if train is None:
            return None
        share = (number + 1) / sum(range(1, count + 1))
        return Lessons(train, train.seconds * share, self._given.calibration, self.judge, self._seed)

    def _squeezed(self, goal: Goal, start: Start, lessons: Lessons | None, front: bool) -> Start:
        """Squeeze a network; return where the next squeeze begins."""
        network, ladders = self._known(start.model)
        self.compared = network.effort.fewer(len(network.part))
        if not start.whole:
            macs = network.units.macs_left(np.zeros(len(network.units), dtype=bool))
            wishes = {"round_to": self._round_to, "keep": self._keep}
            self.maker = Maker(self._original, self.judge, self._given.held_out, macs, wishes)
        self.search = GoalSearch(goal, self.maker, network, ladders, start, lessons, self._tell)
        self.search.run(front)
        self._clock.lap("squeeze" if lessons is None else "squeeze and train")
        chosen, _ = self.search.chosen()
        return Start(with_initializers(chosen.model), self.search.whole, chosen.taken, start.points)

    def _known(self, source: Model) -> tuple[Network, list[Ladder]]:
        """Find the units of a network, and what they are worth."""
        self._tell("analysing", None)
        model = with_biases(source)
        sizes = self._given.calibration.sizes(model.skeleton.graph.input)
        units = units_of(model, positions=self._round_to != "auto", sizes=sizes, emptied=True)
        check_patterns("--keep", self._keep, units.analysis.context.shapes)
        check_patterns("--only", self._only, units.analysis.context.shapes)
        readers = tuple(readers_of(model, units))
        families = families_of(units, readers, self._keep, self._only)
        if self._round_to == "auto":  # columns of what cannot be narrowed would be gathered, which takes too long
            families = [family for family in families if family.kind != "column"]
        if not families:
            raise UsageError("no unit of this model can leave; `onnxsqueeze inspect --verbose` says what holds them")
        part, judged = self._given.calibration, self.judge
        network = Network(model, units, readers, tuple(families), judged, part, self._seed, self._round_to)
        self._clock.lap("analyse")
        ladders = ladders_of(network, self._tell)
        self._clock.lap("measure")
        return network, ladders
