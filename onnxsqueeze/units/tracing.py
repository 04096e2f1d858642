"""From a constant that a node reads back to the stored weights that it is made of.

Exporters put a Transpose, a Reshape or a Slice between a stored weight and the layer; for recurrent layers they cut it
into gates, and join those in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import compacted
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait

Classes = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
_STAYS = frozenset({Trait.COPIES, Trait.DECODES})
"""What leaves elements at their places."""
_MOVES = frozenset({Trait.REARRANGES, Trait.SELECTS, Trait.JOINS, Trait.REPEATS})


@dataclass(frozen=True, eq=False)
class Origin:
    """Which stored elements a constant is made of.

    Attributes:
        starts: the first number of each stored weight. numbers: of each of the constant's elements.
    """

    starts: Mapping[str, int]
    numbers: Classes

    def read(self, arrays: Mapping[str, Array]) -> Array:
        """Return the constant, from stored weights."""
        return np.concatenate([arrays[name].reshape(-1) for name in self.starts])[self.numbers]

    def written(self, arrays: Mapping[str, Array], value: Array) -> dict[str, Array]:
        """Return the stored weights of which the constant is ``value``."""
        found = {}
        for name, start in self.starts.items():
            stored = np.array(arrays[name])
            inside = (self.numbers >= start) & (self.numbers < start + stored.size)
            stored.reshape(-1)[self.numbers[inside] - start] = value[inside]
            found[name] = stored
        return found


def origin_of(name: str, analysis: Analysis) -> Origin | None:
    """Return where a constant is stored; None where it is computed, or some element stands at several places."""
    starts: dict[str, int] = {}
    numbers = _numbers(name, analysis, starts)
    if numbers is None or np.unique(numbers).size < numbers.size:
        return None
    return Origin(starts, numbers)


def traced_back(name: str, arrays: Sequence[Classes], analysis: Analysis) -> Mapping[str, tuple[Classes, ...]] | None:
    """Return by stored weight the classes of its elements, from those of the constant that is made of it.

    Args:
        name: the constant. arrays: classes of its elements, each of its rank, with length 1 along axes on which they do
            not depend.

    Returns:
        The same of each stored weight; None where something else is computed, or of some elements nothing is known.
    """
    alone = _along_one_way(name, arrays, analysis)
    return alone if alone is not None else _by_numbers(name, arrays, analysis)


def _along_one_way(name: str, arrays: Sequence[Classes], analysis: Analysis) -> dict[str, tuple[Classes, ...]] | None:
    """Follow nodes of one input each, which need no array of the weight's own size."""
    graph, found = analysis.graph, tuple(arrays)
    while name not in graph.initializers:
        node = graph.producers.get(name)
        moved = [] if node is None else [_moved_back(node, analysis.context, array) for array in found]
        found = tuple(array for array in moved if array is not None)
        if node is None or len(found) < len(arrays):
            return None
        name = node.inputs[0]
    return {name: found}


def _moved_back(node: Node, context: Context, array: Classes) -> Classes | None:
    """Return the classes of what a node moves about, from those of what it writes; None if it does something else."""
    rule = rule_for(node)
    if rule.traits & _STAYS:
        return array
    if rule.permutes is not None:
        return np.asarray(array.transpose(np.argsort(rule.permutes(node, array.ndim))))
    value, output = context.value(node.input(0)), context.value(node.outputs[0])
    if value is None or output is None:
        return None
    if Trait.REARRANGES in rule.traits:
        return np.broadcast_to(array, output.shape).reshape(value.shape)
    return None if rule.moved_back is None else rule.moved_back(node, context, compacted(array))


def _by_numbers(name: str, arrays: Sequence[Classes], analysis: Analysis) -> dict[str, tuple[Classes, ...]] | None:
    """Send the numbers of all stored elements the way of the elements, and see which arrives where."""
    starts: dict[str, int] = {}
    numbers = _numbers(name, analysis, starts)
    if numbers is None:
        return None
    found = {}
    for source, start in starts.items():
        shape = analysis.graph.initializers[source].array.shape
        inside = (numbers >= start) & (numbers < start + int(np.prod(shape)))
        own = [_sent_back(np.broadcast_to(array, numbers.shape)[inside], numbers[inside] - start, shape)
               for array in arrays]  # fmt: skip
        if any(array is None for array in own):
            return None
        found[source] = tuple(array for array in own if array is not None)
    return found


def _sent_back(classes: Classes, places: Classes, shape: tuple[int, ...]) -> Classes | None:
    """Put classes where their elements are stored; None where some have none, or copies have different ones."""
    found = np.full(int(np.prod(shape)), -1)
    found[places] = classes
    whole = (found >= 0).all() and bool((found[places] == classes).all())
    return found.reshape(shape) if whole else None


def _numbers(name: str, analysis: Analysis, starts: dict[str, int]) -> npt.NDArray[Any] | None:
    """Return for each element of a constant which stored one it is; ``starts`` takes up the first of each weight."""
    graph, node = analysis.graph, analysis.graph.producers.get(name)
    if name in graph.initializers:
        array = graph.initializers[name].array
        ends = [start + graph.initializers[other].array.size for other, start in starts.items()]
        start = starts.setdefault(name, max(ends, default=0))
        return np.asarray(np.arange(start, start + array.size).reshape(array.shape))
    rule = None if node is None else rule_for(node)
    if node is None or rule is None or not rule.traits & (_MOVES | _STAYS):
        return None
    joins = Trait.JOINS in rule.traits
    moved = [_numbers(each, analysis, starts) for each in (node.inputs if joins else node.inputs[:1])]
    if rule.traits & _STAYS:
        return moved[0]
    others = [] if joins else [analysis.context.value(each) if each else None for each in node.inputs[1:]]
    unknown = any(value is None for value, each in zip(others, node.inputs[1:], strict=False) if each)
    if rule.evaluate is None or unknown or any(each is None for each in moved):
        return None
    return np.asarray(rule.evaluate(node, [*moved, *others])[node.outputs.index(name)])
