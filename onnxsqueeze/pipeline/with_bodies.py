"""The search of a graph and of the bodies in it, again where a body has come to capture less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import encoded_size
from onnxsqueeze.model.walk import free_names, subgraphs
from onnxsqueeze.pipeline.bodies import Body, with_narrowed_bodies
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.pipeline.rounds import Round, searched
from onnxsqueeze.pipeline.search import Wishes


def searched_with_bodies(
    model: Model, stored: Model, analysis: Analysis, wishes: Wishes
) -> tuple[Sequence[Round], Model, Sequence[Body]]:
    """Return the rounds of the search, what the model has become, and what came of its bodies.

    A tensor that a body captures stays as it is. Where the smaller body reads it no more, it may be dead, and all that
    leads to it: what has come of the model is then searched as if it had been given.

    Args:
        model: the model. stored: it with its Constant nodes as initializers. analysis: of that. wishes: of the user.
    """
    rounds = searched(stored, analysis, wishes)
    last = rounds[-1].best
    before = last.model if last.changed else model
    minimized, bodies = with_narrowed_bodies(before, last.analysis.context, wishes)
    while _captured(minimized) < _captured(before):
        again, tighter = with_initializers(minimized), replace(wishes, most_bytes=encoded_size(minimized))
        further = searched(again, analyse(again, wishes.keep, only=wishes.only), tighter)
        last = further[-1].best
        if not last.changed:
            break
        rounds, before = [*rounds, *further], last.model
        minimized, more = with_narrowed_bodies(before, last.analysis.context, tighter)
        bodies = [*bodies, *(body for body in more if body.outcome.changed)]
    return rounds, minimized, bodies


def _captured(model: Model) -> frozenset[str]:
    """Return what bodies read of what nodes of the main graph compute."""
    nodes = model.skeleton.graph.node
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for graph in subgraphs(node) for name in free_names(graph)}
    return frozenset(made & read)
