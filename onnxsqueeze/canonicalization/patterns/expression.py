"""A little language for what exporters write: expressions that are matched against a graph, from a node upstream.

Matching goes through Casts between floating types, tries both orders of what commutes, and gives one `Match` after
another, since it shows only later whether the nodes can be taken out of the graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.floating import FLOATING
from onnxsqueeze.canonicalization.patterns.scope import Scope, close
from onnxsqueeze.graph.graph import Node

Edge = tuple[Node, int]
"""An input of a node."""


@dataclass(frozen=True)
class Match:
    """How an expression was found.

    Attributes:
        members: the nodes, by index.
        tensors: what the named parts of the expression stand for.
        roles: by (index, input), the named part that the node reads there.
        axes: those of all the means. axis: that of the Softmax. space: those of all the norms.
    """

    members: Mapping[int, Node] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[tuple[int, int], str] = field(default_factory=dict)
    axes: tuple[int, ...] = ()
    axis: int | None = None
    space: tuple[int, ...] = ()

    def with_member(self, node: Node) -> Match:
        """Add a node."""
        return replace(self, members={**self.members, node.index: node})

    def bound(self, key: str, edge: Edge) -> Match | None:
        """Let a named part stand for the tensor that is read at an edge; None if it stands for another one."""
        node, place = edge
        name = node.inputs[place]
        if self.tensors.get(key, name) != name:
            return None
        roles = {**self.roles, (node.index, place): key}
        return replace(self, tensors={**self.tensors, key: name}, roles=roles)


class Expression(ABC):
    """Something that a node may compute or read."""

    @abstractmethod
    def at(self, edge: Edge, scope: Scope, match: Match) -> Iterator[Match]:
        """Yield the ways in which what is read at an edge is this expression."""

    @abstractmethod
    def may_stand(self, edge: Edge, scope: Scope) -> bool:
        """Whether what is read at an edge may be this expression, by what it is alone: most are refuted so."""

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        """Yield the ways in which what a node computes is this expression."""
        yield from ()

    @property
    def operators(self) -> frozenset[str]:
        """The operators that may come last."""
        return frozenset()


class Computed(Expression):
    """An expression that a node computes; Casts behind it are passed."""

    def may_stand(self, edge: Edge, scope: Scope) -> bool:
        node = scope.producer(edge[0].inputs[edge[1]])
        return node is not None and (node.op in self.operators or is_cast(node))

    def at(self, edge: Edge, scope: Scope, match: Match) -> Iterator[Match]:
        node = scope.producer(edge[0].inputs[edge[1]])
        if node is None:
            return
        if node.op in self.operators:
            yield from self.of(node, scope, match)
        elif is_cast(node):
            yield from self.at((node, 0), scope, match.with_member(node))


@dataclass(frozen=True)
class Data(Expression):
    """What the whole pattern is computed of: one tensor wherever it stands, taken before or behind its Casts."""

    key: str = "x"

    def may_stand(self, edge: Edge, scope: Scope) -> bool:
        return edge[0].inputs[edge[1]] not in scope.graph.initializers

    def at(self, edge: Edge, scope: Scope, match: Match) -> Iterator[Match]:
        if not self.may_stand(edge, scope):
            return
        found = match.bound(self.key, edge)
        if found is not None:
            yield found
        node = scope.producer(edge[0].inputs[edge[1]])
        if node is not None and is_cast(node):
            yield from self.at((node, 0), scope, match.with_member(node))


class Stored(Expression):
    """A constant."""

    def may_stand(self, edge: Edge, scope: Scope) -> bool:
        return scope.constant(edge[0].inputs[edge[1]]) is not None


@dataclass(frozen=True)
class Weight(Stored):
    """A floating-point constant of several elements."""

    key: str

    def at(self, edge: Edge, scope: Scope, match: Match) -> Iterator[Match]:
        array = scope.constant(edge[0].inputs[edge[1]])
        found = match.bound(self.key, edge)
        if array is not None and array.size > 1 and array.dtype.kind in "fV" and found is not None:
            yield found


@dataclass(frozen=True)
class Number(Stored):
    """A constant of one element with this value."""

    value: float

    def at(self, edge: Edge, scope: Scope, match: Match) -> Iterator[Match]:
        array = scope.number(edge[0].inputs[edge[1]])
        if array is not None and close(array, self.value):
            yield match


@dataclass(frozen=True)
class Parameter(Stored):
    """A floating-point constant of one element with any value, which becomes an attribute."""

    key: str

    def at(self, edge: Edge, scope: Scope, match: Match) -> Iterator[Match]:
        array = scope.number(edge[0].inputs[edge[1]])
        found = match.bound(self.key, edge)
        if array is not None and array.dtype.kind in "fV" and found is not None:
            yield found


@dataclass(frozen=True)
class Operation(Computed):
    """An operator with these operands; those of Add and Mul in either order."""

    op: str
    operands: Sequence[Expression]

    @cached_property
    def operators(self) -> frozenset[str]:
        return frozenset({self.op})

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        if node.op != self.op or len(node.inputs) != len(self.operands):
            return
        edges = [(node, place) for place in range(len(node.inputs))]
        orders = [edges, edges[::-1]] if self.op in ("Add", "Mul") else [edges]
        for order in orders:
            yield from _operands(list(zip(self.operands, order, strict=True)), node, scope, match)


@dataclass(frozen=True)
class Product(Computed):
    """A product in whatever order and grouping; a number may also divide the rest by its inverse."""

    factors: Sequence[Expression]

    @cached_property
    def operators(self) -> frozenset[str]:
        divides = any(isinstance(factor, Number) for factor in self.factors)
        return frozenset({"Mul", "Div"} if divides else {"Mul"})

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        if len(node.inputs) != 2 or node.op not in self.operators:
            return
        for left, right in self._divisions if node.op == "Div" else self._splits:
            yield from _operands([(left, (node, 0)), (right, (node, 1))], node, scope, match)

    @cached_property
    def _splits(self) -> Sequence[tuple[Expression, Expression]]:
        """Every way to divide the factors between the two inputs."""
        count, found = len(self.factors), []
        for chosen in range(1, 2**count - 1):
            left = [factor for place, factor in enumerate(self.factors) if chosen >> place & 1]
            right = [factor for place, factor in enumerate(self.factors) if not chosen >> place & 1]
            found.append((_product(left), _product(right)))
        return found

    @cached_property
    def _divisions(self) -> Sequence[tuple[Expression, Expression]]:
        found: list[tuple[Expression, Expression]] = []
        for place, factor in enumerate(self.factors):
            if isinstance(factor, Number):
                rest = [other for position, other in enumerate(self.factors) if position != place]
                found.append((_product(rest), Number(1 / factor.value)))
        return found


@dataclass(frozen=True)
class OneOf(Computed):
    """Any of several spellings."""

    choices: Sequence[Expression]

    @cached_property
    def operators(self) -> frozenset[str]:
        return frozenset(chain.from_iterable(choice.operators for choice in self.choices))

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        for choice in self.choices:
            if node.op in choice.operators:
                yield from choice.of(node, scope, match)


@dataclass(frozen=True)
class Mean(Computed):
    """A ReduceMean that keeps its axes, which are constants and the same for all means of a pattern."""

    operand: Expression

    @cached_property
    def operators(self) -> frozenset[str]:
        return frozenset({"ReduceMean"})

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        axes = _axes(node, scope)
        if axes and node.attributes.get("keepdims", 1) == 1 and match.axes in ((), axes):
            found = replace(match.with_member(node), axes=axes)
            yield from self.operand.at((node, 0), scope, found)


@dataclass(frozen=True)
class Norm(Computed):
    """A ReduceL2 that keeps its axes, which are constants and the same for all norms of a pattern."""

    operand: Expression

    @cached_property
    def operators(self) -> frozenset[str]:
        return frozenset({"ReduceL2"})

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        axes = _axes(node, scope)
        if axes and node.attributes.get("keepdims", 1) == 1 and match.space in ((), axes):
            yield from self.operand.at((node, 0), scope, replace(match.with_member(node), space=axes))


@dataclass(frozen=True)
class Softmax(Computed):
    """A Softmax along one axis."""

    operand: Expression

    @cached_property
    def operators(self) -> frozenset[str]:
        return frozenset({"Softmax"})

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        axis = int(node.attributes.get("axis", -1 if node.version >= 13 else 1))
        if (node.version >= 13 or axis == -1) and match.axis in (None, axis):  # older ones take all axes from there on
            yield from self.operand.at((node, 0), scope, replace(match.with_member(node), axis=axis))


def add(left: Expression, right: Expression) -> Operation:
    """Return a sum of two; the one that is cheaper to refute should come first."""
    return Operation("Add", (left, right))


def is_cast(node: Node) -> bool:
    """Whether a node turns numbers into floating-point ones of some type."""
    return node.op == "Cast" and node.attributes["to"] in FLOATING


def _product(factors: Sequence[Expression]) -> Expression:
    return factors[0] if len(factors) == 1 else Product(tuple(factors))


def _axes(node: Node, scope: Scope) -> tuple[int, ...]:
    if "axes" in node.attributes:
        return tuple(sorted(node.attributes["axes"]))
    array: Array | None = scope.constant(node.input(1)) if node.input(1) else None
    return () if array is None else tuple(sorted(int(axis) for axis in array.ravel()))


def _operands(pairs: Sequence[tuple[Expression, Edge]], node: Node, scope: Scope, match: Match) -> Iterator[Match]:
    """Yield the ways in which a node has these operands."""
    if all(expression.may_stand(edge, scope) for expression, edge in pairs):
        yield from _all(pairs, scope, match.with_member(node))


def _all(pairs: Sequence[tuple[Expression, Edge]], scope: Scope, match: Match) -> Iterator[Match]:
    """Yield the ways in which all expressions stand at their edges."""
    if not pairs:
        yield match
        return
    (expression, edge), *rest = pairs
    for found in expression.at(edge, scope, match):
        yield from _all(rest, scope, found)
