"""One search after the other: what has become of a model is searched as if it had been given, until nothing more goes.

An analysis sees the model as it was. What is gone afterwards may have tied what stays: a branch nobody reads any more,
a Gather that took part of what a layer made and now takes all of it. A second run over a result would find more; here
it is part of the first, and costs nothing where no reader of what stays has gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.canonicalization.whole_layers import with_whole_layers
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.graph.named_tensors import matches
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.counting import weight_bytes
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import encoded_size
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.pipeline.search import Outcome, Wishes, better, smallest
from onnxsqueeze.rules.contract import Context, OpRule
from onnxsqueeze.rules.lessons import Failure, RuleFailed


@dataclass(frozen=True)
class Round:
    """One search.

    Attributes:
        first: what came of the model as it was given to it. best: that, or what came of it with whole layers.
        failures: what it came upon in rules.
    """

    first: Outcome
    best: Outcome
    failures: tuple[Failure, ...]


def searched(stored: Model, analysis: Analysis, wishes: Wishes) -> Sequence[Round]:
    """Search until nothing more goes, and return all rounds that made it smaller, at least one.

    Args:
        stored: the model, its Constant nodes as initializers. analysis: of it. wishes: what the user asked for.
    """
    rounds = [_round(stored, analysis, wishes)]
    given = {name for node in stored.skeleton.graph.node for name in node.output}
    while _let_go(rounds[-1].best, given):
        model = with_initializers(rounds[-1].best.model)
        tighter = replace(wishes, most_bytes=encoded_size(rounds[-1].best.model))
        following = _round(model, analyse(model, wishes.keep, only=wishes.only), tighter)
        if not following.best.changed or weight_bytes(following.best.model) >= weight_bytes(model):
            break
        rounds.append(following)
    return rounds


def _let_go(outcome: Outcome, given: Collection[str]) -> bool:
    """Whether another analysis could see what this one did not.

    Who read or tied channels that stay has gone, or these stay for bytes of which fewer are in question by now.
    """
    return outcome.changed and (outcome.too_long or _lost_readers(outcome) or _takes_alone(outcome, given))


def _lost_readers(outcome: Outcome) -> bool:
    """Whether a node fell away, as dead or as a constant, that read values of what stays."""
    analysis, plan = outcome.analysis, outcome.plan
    graph = outcome.model.skeleton.graph
    there = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        if there.intersection(node.outputs) or plan.drops_summand(node.index):
            continue
        if there.intersection(node.inputs) and there.intersection(_reads(node, rule, analysis.context)):
            return True
    return False


def _reads(node: Node, rule: OpRule, context: Context) -> list[str]:
    """Return the activations of which a node reads values, and not only the shape."""
    wanted = [np.full((1,) * context.rank(name), True) for name in node.outputs]
    try:
        demands = rule.need(node, context, wanted)
    except RuleFailed:  # it was never asked about this node, whose value is known
        return list(node.inputs)
    pairs = zip(node.inputs, demands, strict=False)
    return [name for name, demand in pairs if demand is not None and context.is_activation(name) and demand.live.any()]


def _takes_alone(outcome: Outcome, given: Collection[str]) -> bool:
    """Whether a Gather that this round or one before added is all that reads a tensor: nobody reads what it leaves.

    ``given`` are the tensors that nodes wrote at first.
    """
    graph = outcome.model.skeleton.graph
    readers = Counter(name for names in Graph.read_names(graph) for name in names)
    readers.update(value.name for value in (*graph.input, *graph.output))
    added = (node for node in graph.node if node.op_type == "Gather" and node.output[0] not in given)
    return any(readers[node.input[0]] == 1 for node in added)


def _round(stored: Model, analysis: Analysis, wishes: Wishes) -> Round:
    first = smallest(analysis, wishes)
    whole = _of_whole_layers(first.analysis, stored, wishes)
    best = first if whole is None else better(first, whole)
    return Round(first, best, (*first.failures, *(() if whole is None else whole.failures)))


def _of_whole_layers(analysis: Analysis, model: Model, wishes: Wishes) -> Outcome | None:
    """Plan and apply for the model whose layers have the weights for all of the tensors that are gathered around them.

    A norm behind such a Gather can lose channels then. What comes out counts only if it is smaller than what does else.
    """
    kept = {name for name in analysis.context.shapes if matches(name, (*wishes.keep, *wishes.only))}
    try:
        whole = with_whole_layers(analysis, model, kept)
    except RuleFailed:  # it answered planning's same questions, so that this is but a chance that is missed
        return None
    return None if whole is None else smallest(analyse(whole, wishes.keep, only=wishes.only), wishes)
