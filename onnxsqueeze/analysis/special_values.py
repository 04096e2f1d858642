"""Where infinities and NaN may be: what a file stores of them, and what its own tests for them look for."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from copy import copy

import numpy as np
import onnx
import onnx.numpy_helper

from onnxsqueeze.abstract.compact import Array, compacted
from onnxsqueeze.abstract.interval import Interval, top
from onnxsqueeze.abstract.specials import (
    ANY,
    GAPS,
    NAN,
    NEGATIVE,
    POSITIVE,
    Specials,
    along,
    either,
    has,
    scattered,
    specials_of,
    where,
)
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.walk import graph_nodes, subgraphs
from onnxsqueeze.rules.contract import UNKNOWN, Context, Demand, OpRule
from onnxsqueeze.rules.passing import mixed_specials
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait

_FLOATING = {
    kind
    for kind in onnx.TensorProto.DataType.values()
    if onnx.TensorProto.DataType.Name(kind).startswith(("FLOAT", "DOUBLE", "BFLOAT", "UNDEFINED", "COMPLEX"))
}
_MOVES = {Trait.COPIES, Trait.REARRANGES, Trait.SELECTS, Trait.JOINS, Trait.REPEATS}


def before_tests(graph: Graph) -> frozenset[int]:
    """Return the nodes, by index, of which a graph looks at a result for infinities or NaN, itself or further on."""
    names = [name for node in graph.nodes if _tests(node, graph) for name in node.inputs]
    found: set[int] = set()
    while names:
        node = graph.producers.get(names.pop())
        if node is not None and node.index not in found:
            found.add(node.index)
            names.extend((*node.inputs, *node.captured))
    return frozenset(found | {node.index for node in graph.nodes if _tests(node, graph)})


def _tests(node: Node, graph: Graph) -> bool:
    """A comparison looks for NaN where it compares a tensor with itself, and for infinities where with one."""
    traits = rule_for(node).traits
    if Trait.COMPARES not in traits:
        inner = (graph.node(node.index, proto) for body in node.bodies for proto in graph_nodes(body))
        return Trait.TESTS_FINITE in traits or any(Trait.TESTS_FINITE in rule_for(each).traits for each in inner)
    stored = [graph.initializers[name] for name in node.inputs if name in graph.initializers]
    infinite = any(each.is_numeric and specials_of(each.array) is not None for each in stored)
    return infinite or len(set(node.inputs)) < len(node.inputs)


def find(node: Node, rule: OpRule, context: Context) -> Mapping[str, Specials]:
    """Return the special values of a node's outputs, by name, without those that are sure to be finite.

    What an operator makes of special values is asked of its registered rule, whether or not that applies otherwise;
    what only moves elements moves their flags along, and all else is taken to mix all that it reads.
    """
    within = of_bodies(node, context)
    if within:
        made = {name: np.full((1,) * context.rank(name), within, dtype=np.uint8) for name in node.outputs if name}
        return {name: flags for name, flags in made.items() if _floating(name, context)}
    flagged = [name for name in node.inputs if name and context.special(name) is not None]
    known = rule_for(node)
    found: Sequence[Specials | None] = ()
    if known.specials is not None and (flagged or node.index in context.tested):
        found = _asked(node, rule, known, context)
    elif known.specials is None and flagged:
        if known.traits & _MOVES:
            found = mixed_specials(node, context) if rule is UNKNOWN else _moved(node, rule, context)
        else:
            found = _anything(node, context)
    specials = {
        name: flags for name, flags in zip(node.outputs, found, strict=False) if flags is not None and flags.any()
    }
    return {name: compacted(flags) for name, flags in specials.items() if name and _floating(name, context)}


def of_bodies(node: Node, context: Context) -> int:
    """Return what a node that holds graphs reads or stores, in them or in front of them, that is not finite.

    Minus infinity by itself is a mask that they make, or that they read.
    """
    if not node.bodies:
        return 0
    flags = [context.special(name) for name in (*node.inputs, *node.captured) if name]
    return _together([*flags, *(specials_of(array) for body in node.bodies for array in _stored(body))])


def of_inputs(node: Node, body: onnx.GraphProto, context: Context) -> dict[str, int]:
    """Return what of that a body may find: in a state all of it, in what it captures what is there."""
    state = of_bodies(node, context)
    captured = {name: _together([context.special(name)]) for name in node.captured}
    return {name: kind for name, kind in {**captured, **{value.name: state for value in body.input}}.items() if kind}


def _together(flags: Sequence[Specials | None]) -> int:
    found = [np.bitwise_or.reduce(each, axis=None) for each in flags if each is not None]
    return int(scattered(either(found))) if found else 0


def _stored(graph: onnx.GraphProto) -> Iterator[Array]:
    """Yield the constants of a graph, and of those inside."""
    tensors = [*graph.initializer, *(entry.t for node in graph.node for entry in node.attribute if entry.HasField("t"))]
    yield from (onnx.numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type in _FLOATING)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _stored(inner)


def _anything(node: Node, context: Context) -> list[Specials]:
    return [np.full((1,) * context.rank(name), ANY) for name in node.outputs]


def _asked(node: Node, rule: OpRule, known: OpRule, context: Context) -> Sequence[Specials | None]:
    """Ask a registered rule; of a node to which it does not apply, with all places of the inputs taken together."""
    assert known.specials is not None
    if rule is not UNKNOWN:
        return known.specials(node, context)
    if any(name not in context.shapes for name in (*node.inputs, *node.outputs) if name):
        return _anything(node, context)
    flags = {name: context.special(name) for name in node.inputs if name}
    together = _supposing(context, {name: top(context.rank(name)) for name in flags})
    whole = {name: None if each is None else along(each, range(each.ndim)) for name, each in flags.items()}
    together.specials = {**context.specials, **whole}
    return known.specials(node, together)


def _supposing(context: Context, intervals: dict[str, Interval]) -> Context:
    """Return a context in which other intervals hold for some tensors, and nothing is remembered of those."""
    supposed = copy(context)
    supposed.intervals = ChainMap(intervals, context.intervals)  # type: ignore[assignment]
    supposed._memos = {}
    return supposed


def _floating(name: str, context: Context) -> bool:
    return context.dtypes.get(name, onnx.TensorProto.UNDEFINED) in _FLOATING


def _moved(node: Node, rule: OpRule, context: Context) -> list[Specials]:
    """Let a rule move flags as it moves bounds: one sweep for each kind, over intervals that are 1 where it may be."""
    inputs = {name: context.special(name) for name in node.inputs if name}
    kinds = [kind for kind in (NEGATIVE, POSITIVE, NAN, GAPS) if any(_any(flags, kind) for flags in inputs.values())]
    found: list[list[Specials]] = [[] for _ in node.outputs]
    for kind in kinds:
        marks = {name: _marked(flags, kind, context.rank(name)) for name, flags in inputs.items()}
        moving = _supposing(context, marks)
        for place, interval in enumerate(rule.forward(node, moving)):
            mixed = where(interval.upper > 0, kind)
            found[place].append(scattered(mixed, interval.lower <= 0))
    return [either(flags) for flags in found]


def _any(flags: Specials | None, kind: np.uint8) -> bool:
    return flags is not None and bool(has(flags, kind).any())


def _marked(flags: Specials | None, kind: np.uint8, rank: int) -> Interval:
    marks = np.zeros((1,) * rank) if flags is None else has(flags, kind).astype(np.float64)
    return Interval(marks, marks)


def demands(node: Node, rule: OpRule, context: Context) -> Mapping[str, Demand]:
    """Return what else is needed of a node's inputs, since a rule that passes over zeros asks for too little."""
    if rule_for(node).specials is not None or rule.traits & _MOVES:
        return {}
    flags = {name: context.special(name) for name in node.inputs if name and context.is_activation(name)}
    return {name: Demand(special > 0) for name, special in flags.items() if special is not None}
