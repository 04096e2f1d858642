"""Which initializers are trained, which follow statistics, and which are constants of the computation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.graph.reachable import reachable
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.rules.codes import Codes
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.training.lowerings.node_call import FLOATING
from onnxsqueeze.training.lowerings.registry import find_form

FROZEN = "onnxsqueeze.frozen"
"""Key of a model's metadata: a JSON list of initializers that are not trained (buffers of the exported network)."""

_WAVES = ("Sin", "Cos")
_MOST_STEPS = 16  # from a frequency to its waves
_HUGE = 1e30
_DOUBLE = 11


@dataclass(frozen=True)
class Roles:
    """What the initializers of a graph are to a training.

    Attributes:
        trained: initializers that are parameters.
        statistics: initializers that are moving averages.
        coded: how those of the trained ones are stored that are codes.
        varying: all tensors that change when those do, themselves included.
        reachable: nodes that some graph output depends on, by index.
    """

    trained: frozenset[str]
    statistics: frozenset[str]
    coded: Mapping[str, Codes]
    varying: frozenset[str]
    reachable: frozenset[int]


def roles_of(graph: Graph, context: Context | None = None) -> Roles:
    """Decide the role of each initializer that some graph output depends on.

    Args:
        graph: the graph. context: of its analysis, which knows what codes stand for; without it none are trained.
    """
    used = frozenset(reachable(graph))
    nodes = [node for node in graph.nodes if node.index in used]
    fixed: set[str] = set()
    statistics: set[str] = set()
    for node in nodes:
        form = find_form(node)
        if form is not None:
            fixed.update(node.input(position) for position in form.fixed)
            statistics.update(node.input(position) for position in form.statistics)
    frozen = set(listed(graph.model, FROZEN)) | fixed | statistics
    stored = graph.model.initializers
    read = {name for node in nodes for name in node.inputs} | set(graph.outputs)
    codes = {} if context is None else dict(_coded(graph, context, nodes))
    coded = {name: how for name, how in codes.items() if name not in frozen}
    plain = {name for name in stored if name in read and name not in frozen and _is_weight(stored[name])}
    trained = plain | coded.keys()
    trained -= _frequencies(graph, nodes, trained)
    moving = {name for name in statistics if name in stored}
    return Roles(frozenset(trained), frozenset(moving), coded, frozenset(_spread(nodes, trained | moving)), used)


def listed(model: Model, key: str) -> list[str]:
    """Return a JSON list from a model's metadata, empty where there is none."""
    found = [entry.value for entry in model.skeleton.metadata_props if entry.key == key]
    value = json.loads(found[0]) if found else []
    return value if isinstance(value, list) else []


def _is_weight(initializer: Initializer) -> bool:
    """Masks of minus infinity and the like are no weights, nor are single numbers (a slope, an epsilon, a scale)."""
    if initializer.header.data_type not in (*FLOATING, _DOUBLE) or initializer.size < 2:
        return False
    array = initializer.array
    with np.errstate(invalid="ignore"):
        return bool((np.abs(array.astype(np.float32, copy=False)) <= _HUGE).all())


def _coded(graph: Graph, context: Context, nodes: Sequence[Node]) -> Iterator[tuple[str, Codes]]:
    """Yield the initializers that hold codes, and are decoded by one node each and read by nothing else."""
    for node in nodes:
        rule = rule_for(node)
        codes = None if rule.codes is None else rule.codes(node, context)
        if codes is None or codes.limits is None or codes.name not in graph.initializers:
            continue
        alone = len(graph.readers.get(codes.name, ())) == 1 and codes.name not in graph.outputs
        if alone and graph.initializers[codes.name].size > 1:
            yield codes.name, codes


def _frequencies(graph: Graph, nodes: Sequence[Node], trained: set[str]) -> set[str]:
    """Return what is read as angles of positions and nothing else: the frequencies of rotary and sinusoidal embeddings.

    Positions are counted, so that no floating-point input and no weight has a part in them.
    """
    found: set[str] = set()
    if not any(node.op in _WAVES for node in nodes):
        return found
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.proto.input}
    floating = {name for name in graph.inputs if kinds.get(name) in (*FLOATING, _DOUBLE)}
    for name in trained:
        angles = _angles(graph, name)
        if angles is not None:
            others = _spread(nodes, (trained | floating) - {name})
            if not any(source in others for node in angles for source in node.inputs):
                found.add(name)
    return found


def _angles(graph: Graph, name: str) -> list[Node] | None:
    """Return the nodes between a tensor and the waves behind it, None where it is read by anything else."""
    found: list[Node] = []
    pending = [name]
    while pending:
        tensor = pending.pop()
        if tensor in graph.outputs:
            return None
        for node, position in graph.readers.get(tensor, ()):
            if position < 0 or len(found) > _MOST_STEPS:
                return None
            if node.op not in _WAVES and not reads_shape(node):
                found.append(node)
                pending.extend(node.outputs)
    return found


def reads_shape(node: Node) -> bool:
    """Whether a node reads nothing of its inputs but their shapes."""
    return Trait.READS_SHAPE in rule_for(node).traits


def _spread(nodes: Iterable[Node], sources: set[str]) -> set[str]:
    """Return the sources and all that is computed from their elements."""
    found = set(sources)
    for node in nodes:
        if not reads_shape(node) and any(name in found for name in (*node.inputs, *node.captured)):
            found.update(name for name in node.outputs if name)
    return found
