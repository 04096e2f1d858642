"""Rules of operators whose output has the classes of its first input, and what is computed element by element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.specials import Specials, either, scattered
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand
from onnxsqueeze.rules.kept import Kept


def pass_ids(node: Node, context: Context) -> None:
    """The output's elements stand where the input's do."""
    context.elements.ids[node.outputs[0]] = context.ids(node.inputs[0])


def pass_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input is live where its output is needed."""
    return [Demand(outputs[0])]


def mixed_specials(node: Node, context: Context) -> Sequence[Specials | None]:
    """What comes out is some of what the inputs hold, at places that are not told apart."""
    found = [context.special(name) for name in node.inputs if name]
    flags = [np.bitwise_or.reduce(each, axis=None) for each in found if each is not None]
    if not flags:
        return [None for _ in node.outputs]
    mixed = scattered(either(flags))
    return [np.full((1,) * context.rank(name), mixed) for name in node.outputs]


def no_specials(node: Node, context: Context) -> Sequence[Specials | None]:
    """What comes out is always finite."""
    return [None for _ in node.outputs]


def of_operands(node: Node, context: Context, kept: Kept) -> list[Kept | None] | None:
    """Each element of the output is computed of those at its place in the inputs, which broadcast."""
    return [_of(name, context, kept) for name in node.inputs]


def _of(name: str, context: Context, kept: Kept) -> Kept | None:
    """Return what is kept of an operand that broadcasts against what is kept of the output; None where it is absent."""
    shape = context.shapes.get(name, ())
    along = kept[len(kept) - len(shape) :]
    return tuple(None if size == 1 else chosen for size, chosen in zip(shape, along, strict=True)) if name else None


def of_first(node: Node, context: Context, kept: Kept) -> list[Kept | None] | None:
    """Like `of_operands`, where all inputs but the first are read whole."""
    return [_of(node.inputs[0], context, kept), *(None for _ in node.inputs[1:])]
