"""The search for the smallest outcome: plan, rewrite, weigh what came out; learn from what did not do, begin again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxsqueeze.analysis.forward import Analysis, analysed
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.graph.reachable import holds_dead_weights
from onnxsqueeze.model.counting import weight_bytes
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import encoded_size
from onnxsqueeze.planning.fixpoint import make_plan, newly_constant
from onnxsqueeze.planning.policy import narrowing, rounding
from onnxsqueeze.rewriting.apply import apply
from onnxsqueeze.rules.guard import blaming
from onnxsqueeze.rules.lessons import (
    ConstantWhereKept,
    Failure,
    Learned,
    Lesson,
    NotNarrowed,
    PassBeside,
    SliceOnce,
    Stage,
    TooLarge,
)
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.weight_source import source_of

_SMALL_SHARE = 64  # copies of less than this part of a model do not matter


@dataclass(frozen=True)
class Wishes:
    """What a user asked for.

    Attributes:
        round_to: see `onnxsqueeze.minimize`. keep: names or glob patterns of tensors of which no channel may go.
        only: of those of which alone some may go; () for all.
        options: choices among forms that rules can write, by name.
        most_bytes: how long the file may become, None where nobody minds.
    """

    round_to: str | int
    keep: Sequence[str]
    options: Mapping[str, str]
    only: Sequence[str] = ()
    most_bytes: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to.

    Attributes:
        analysis, plan: what was decided. model: what came of it; the analysed one itself where nothing changed.
        copied: the stored weights that became several.
        failures: what the search came upon in rules, in other attempts too.
        too_long: whether something stays for the bytes that doing without it would take.
    """

    analysis: Analysis
    plan: Plan
    model: Model
    copied: frozenset[str] = frozenset()
    failures: tuple[Failure, ...] = ()
    too_long: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything was rewritten."""
        return self.model is not self.analysis.graph.model


def smallest(analysis: Analysis, wishes: Wishes) -> Outcome:
    """Return the smallest outcome for an analysed graph.

    Raises:
        RuntimeError: if an attempt teaches what was known before, so that the search would never end.
    """
    learned = analysis.context.learned
    best: Outcome | None = None
    lesson: Lesson | None
    while True:
        try:
            with blaming(analysis.context):
                attempt = _attempt(analysis, learned, wishes)
            best, lesson = _weighed(attempt, best, learned, wishes) if isinstance(attempt, Outcome) else (best, attempt)
        except Lesson as raised:
            lesson = raised
        if lesson is None and isinstance(attempt, Outcome):  # the other reading may be smaller; the best one is kept
            nodes = attempt.analysis.tying(attempt.plan) - learned.beside
            lesson = PassBeside(nodes) if nodes else None
        if lesson is None:
            assert best is not None
            too_long = any(pin.reason is Reason.LARGER for pin in learned.pins)
            return replace(best, failures=tuple(learned.failed.values()), too_long=too_long)
        before, learned = learned, lesson.join(learned)
        if not learned.adds_to(before):
            raise RuntimeError(f"the search learned nothing new from {lesson!r}")
        if lesson.begins_at is Stage.ANALYSIS:
            analysis = analysed(analysis.graph, wishes.keep, learned, wishes.only)
            learned = analysis.context.learned


def _attempt(analysis: Analysis, learned: Learned, wishes: Wishes) -> Outcome | Lesson:
    """Plan and rewrite once.

    Raises:
        Lesson: where a rule does.
    """
    choose = narrowing(wishes.round_to) if learned.narrows else None
    plan = make_plan(analysis, rounding(analysis, wishes.round_to), learned.pins, choose, learned.used)
    if plan.empty and not analysis.requested(wishes.options):
        return _without_dead_weights(Outcome(analysis, plan, analysis.graph.model), wishes)
    if constant := newly_constant(analysis, plan):
        return ConstantWhereKept(constant)
    return Outcome(analysis, plan, *apply(analysis, plan, wishes.options))


def _without_dead_weights(outcome: Outcome, wishes: Wishes) -> Outcome:
    """Return what is left where nothing but nodes goes on which no output depends; else the model as it is."""
    if not holds_dead_weights(Graph(outcome.analysis.graph.file)):
        return outcome
    freed = Outcome(outcome.analysis, outcome.plan, *apply(outcome.analysis, outcome.plan, wishes.options))
    return freed if _fits(freed, wishes) else outcome


def _fits(outcome: Outcome, wishes: Wishes) -> bool:
    """Whether what would be written takes no more bytes than what was given; nodes that were added count, too.

    A form that the user asks for may be longer.
    """
    if outcome.analysis.requested(wishes.options):
        return True
    return wishes.most_bytes is None or encoded_size(outcome.model) <= wishes.most_bytes


def _weighed(
    outcome: Outcome, best: Outcome | None, learned: Learned, wishes: Wishes
) -> tuple[Outcome | None, Lesson | None]:
    """Return the best outcome so far, and what to try otherwise; no lesson if that would not be any better."""
    model = outcome.analysis.graph.model
    if not outcome.changed:
        return fewest(best, outcome), None
    copied = outcome.copied - learned.tied
    given = outcome.analysis.graph.file
    if outcome.plan.empty or (weight_bytes(outcome.model) <= weight_bytes(given) and _fits(outcome, wishes)):
        best = fewest(best, outcome)
        if not _worth_tying(model, outcome.model, copied):
            return best, None
    if copied:  # without the copies it may be even smaller
        return best, SliceOnce(copied)
    if best is not None:
        return best, None
    return None, NotNarrowed() if learned.narrows else _too_large(outcome, learned)


def _too_large(outcome: Outcome, learned: Learned) -> TooLarge:
    """What is around the copies stays, then what is around the nodes that were added, the longest first, then all."""
    pinned = {pin.tensor for pin in learned.pins}
    around = _around(outcome.analysis, outcome.copied) - pinned or _around_new_nodes(outcome, pinned)
    return TooLarge(around or outcome.analysis.context.elements.ids)


def _around_new_nodes(outcome: Outcome, pinned: Collection[str]) -> set[str]:
    """Return the activations between which the most bytes of nodes were put, and at least half as many."""
    graph, context = outcome.analysis.graph, outcome.analysis.context
    known = {(node.op, name) for node in graph.nodes for name in node.outputs}
    homes: dict[str, int] = {}  # the chain of new nodes that makes a tensor
    lengths: dict[int, int] = defaultdict(int)
    touched: dict[int, set[str]] = defaultdict(set)
    for node in outcome.model.skeleton.graph.node:
        if (node.op_type, node.output[0]) in known:
            continue
        home = next((homes[name] for name in node.input if name in homes), len(lengths))
        homes.update((name, home) for name in node.output if name not in context.elements.ids)
        lengths[home] += node.ByteSize()
        touched[home].update(name for name in (*node.input, *node.output) if name in context.elements.ids)
    around = {home: {name for name in names if context.is_activation(name)} for home, names in touched.items()}
    longest = max((lengths[home] for home, names in around.items() if names.difference(pinned)), default=0)
    return {name for home, names in around.items() if 2 * lengths[home] >= longest for name in names}.difference(pinned)


def _worth_tying(model: Model, minimized: Model, copied: Collection[str]) -> bool:
    """Whether what the copies hold is enough of a model to look for a plan without them."""
    held = sum(model.initializers[name].nbytes for name in copied)
    return held * _SMALL_SHARE > weight_bytes(minimized)


def fewest(one: Outcome | None, other: Outcome) -> Outcome:
    """Return the outcome that stores fewer bytes of weights, the later one if they store as many."""
    return one if one is not None and weight_bytes(one.model) < weight_bytes(other.model) else other


def better(first: Outcome, whole: Outcome) -> Outcome:
    """Return the outcome of fewer bytes of weights; of equal ones that with whole layers, unless nothing else went."""
    return fewest(first, whole) if first.changed else fewest(whole, first)


def _around(analysis: Analysis, weights: Collection[str]) -> set[str]:
    """Return the activations that are read or made by the users of some stored weights."""
    context, found = analysis.context, set()
    for node in analysis.graph.nodes:
        sources = [
            source_of(analysis.graph, name, context.rank(name)) for name in node.inputs if name in context.shapes
        ]
        if any(source is not None and source.name in weights for source in sources):
            found |= {name for name in (*node.inputs, *node.outputs) if name and context.is_activation(name)}
    return found
