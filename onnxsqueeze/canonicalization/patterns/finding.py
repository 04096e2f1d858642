"""Finds the groups of nodes in a graph that one operator of `PATTERN_DOMAIN` can stand for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from onnxsqueeze.canonicalization.patterns import activation, grouping, normalization, response, softmax
from onnxsqueeze.canonicalization.patterns.expression import Match, is_cast
from onnxsqueeze.canonicalization.patterns.pattern import Fused, Pattern
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.node_group import Group

_BY_LAST: dict[str, list[Pattern]] = defaultdict(list)
_SPELLINGS = (normalization, response, grouping, activation, softmax)
for _pattern in chain.from_iterable(module.PATTERNS for module in _SPELLINGS):
    for _operator in _pattern.expression.operators:
        _BY_LAST[_operator].append(_pattern)


@dataclass(frozen=True)
class Found:
    """A group, the operator that it spells, and the inputs of that operator."""

    op: str
    inputs: tuple[str, ...]
    last: Node
    group: Group


def find_groups(graph: Graph, operators: Collection[str], kept: Collection[str] = ()) -> list[Found]:
    """Return disjoint groups of nodes.

    Args:
        graph: the graph.
        operators: the operators to look for.
        kept: tensors that must go on to exist.
    """
    scope = Scope(graph)
    outside = {*graph.outputs, *kept}
    taken: set[int] = set()
    found = []
    for node in reversed(graph.nodes):
        if node.index in taken or (node.op not in _BY_LAST and not is_cast(node)):
            continue
        for pattern, match in _matches(node, scope):
            if _closed(match, node, graph, outside) and taken.isdisjoint(match.members):
                fused = pattern.fused(match, scope)
                if fused is not None and fused.op in operators and _keeps_type(match, node, pattern, scope):
                    taken.update(match.members)
                    found.append(_found(match, node, pattern, fused, scope))
                    break
    return found[::-1]


def _matches(last: Node, scope: Scope) -> Iterator[tuple[Pattern, Match]]:
    """Yield what a node computes, or what a Cast is applied to; the patterns list longer spellings first."""
    match, node = Match(), scope.producer(last.outputs[0])
    while node is not None and is_cast(node):
        match = match.with_member(node)
        node = scope.producer(node.inputs[0])
    if node is not None:
        for pattern in _BY_LAST.get(node.op, ()):
            yield from ((pattern, found) for found in pattern.expression.of(node, scope, match))


def _closed(match: Match, last: Node, graph: Graph, outside: set[str]) -> bool:
    """Whether nothing but members reads what the members before the last one write."""
    inner = [name for node in match.members.values() if node is not last for name in node.outputs]
    readers = [reader for name in inner for reader, _ in graph.readers.get(name, ())]
    return outside.isdisjoint(inner) and all(reader.index in match.members for reader in readers)


def _keeps_type(match: Match, last: Node, pattern: Pattern, scope: Scope) -> bool:
    """Whether inputs and output have one type, as where no Cast is inside."""
    if all(node.op != "Cast" for node in match.members.values()):
        return True
    names = [last.outputs[0], *(match.tensors[key] for key in pattern.inputs if key in match.tensors)]
    kinds = {scope.type_of(name) for name in names}
    return len(kinds) == 1 and None not in kinds


def _found(match: Match, last: Node, pattern: Pattern, fused: Fused, scope: Scope) -> Found:
    members = [match.members[index] for index in sorted(match.members)]
    given = tuple(match.tensors.get(key, "") for key in pattern.inputs)
    keys = [*pattern.inputs, *pattern.parameters]
    inputs = [*given, *(match.tensors.get(key, "") for key in pattern.parameters)]
    reads = {}
    for number, node in enumerate(members):
        for place, name in _from_outside(node, match):
            key = match.roles.get((node.index, place), f" {name}")  # no named part has a space
            if key not in keys:
                keys.append(key)
                inputs.append(name)
            reads[number, place] = keys.index(key)
    attributes = dict(fused.attributes)
    numbers = {}
    for key in pattern.parameters:
        array = scope.constant(match.tensors[key]) if key in match.tensors else None
        if array is not None:
            attributes[key] = float(array.astype(np.float64).ravel()[0])
            numbers[key] = (keys.index(key), array)
    group = Group(
        [node.proto for node in members], [node.index for node in members], attributes, inputs, reads, numbers
    )
    return Found(fused.op, given, last, group)


def _from_outside(node: Node, match: Match) -> Iterator[tuple[int, str]]:
    """Yield the inputs of a member that no other member writes."""
    written = {name for member in match.members.values() for name in member.outputs}
    yield from ((place, name) for place, name in enumerate(node.inputs) if name and name not in written)
