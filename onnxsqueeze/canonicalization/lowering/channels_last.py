"""Tensors with their channels along the last axis, as onnxruntime keeps those of integers and of float16.

An operator on them is the standard's between two Transposes; those of neighbours cancel when onnxruntime loads a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxsqueeze.canonicalization.lowering.parts import Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.lowered_node import Lowered

_COUNTED_POOLS = 12  # the opset since which MaxPool takes integers of one byte
_ALIKE = {
    "QLinearConv": (0,),
    "QLinearAveragePool": (0,),
    "QLinearGlobalAveragePool": (0,),
    "QLinearLeakyRelu": (0,),
    "QLinearSigmoid": (0,),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
    "QLinearConcat": (2,),
    "NhwcMaxPool": (0,),
    "Resize": (0,),
    "Slice": (0,),
    "Pad": (0,),
}
"""Operators between which onnxruntime keeps this layout, and the inputs that have the rank of the output."""


@dataclass(frozen=True)
class Turns:
    """How axes move.

    Attributes:
        first: to channels before space. last: to channels behind it. Both are empty where nothing moves.
    """

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()

    @staticmethod
    def of(rank: int) -> Turns:
        """Return those of tensors of a rank."""
        space = range(1, rank - 1)
        return Turns((0, rank - 1, *space), (0, *(axis + 1 for axis in space), 1))


def turns_of(node: Node, scope: Scope) -> Turns | None:
    """Return the turns around an operator, which may have its channels first; None where the rank is not known."""
    if not node.attributes.get("channels_last", 0):
        return Turns()
    rank = _rank(node.input(0), scope)
    return None if rank is None else Turns.of(rank)


def turned(parts: Parts, name: str, turn: Sequence[int]) -> str:
    """Move the axes of a tensor, if there is anything to move, and return what comes of it."""
    return parts.add("Transpose", name, perm=turn) if turn else name


def _rank(name: str, scope: Scope) -> int | None:
    """Return a tensor's rank as the file declares it, or as the nodes say that it comes through."""
    pending, seen = [name], set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        rank = scope.rank(name)
        node = scope.graph.producers.get(name)
        if rank is None and node is not None:
            rank = _written_rank(node)
            pending.extend(node.input(position) for position in _ALIKE.get(node.op, ()))
        if rank is not None:
            return rank
    return None


def _written_rank(node: Node) -> int | None:
    """Return the rank of what a node writes, if its attributes say it."""
    if node.op == "Transpose" and "perm" in node.attributes:
        return len(node.attributes["perm"])
    return len(node.attributes["kernel_shape"]) + 2 if "kernel_shape" in node.attributes else None


def lower_pool(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """NhwcMaxPool: of integers of one byte."""
    if scope.graph.opsets.get("", 0) < _COUNTED_POOLS:
        return None
    turns = Turns.of(len(node.attributes["kernel_shape"]) + 2)
    x = turned(parts, parts.slot(0), turns.first)
    parts.name_next()
    turned(parts, parts.add("MaxPool", x, copied=node.proto.attribute), turns.last)
    return parts.lowered()
