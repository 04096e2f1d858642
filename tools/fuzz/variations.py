"""Other ways to write a model, and constants that make a minimizer stumble."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxsqueeze.model.walk import subgraphs

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_EXTREME = (np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0)
Variation = Callable[[ModelProto, np.random.Generator], None]


def as_it_is(model: ModelProto, random: np.random.Generator) -> None:
    """Change nothing."""


def extreme(model: ModelProto, random: np.random.Generator) -> None:
    """Put infinities, NaN and 1e30 into one constant, at one place or in a whole row."""
    chosen = [tensor for tensor in model.graph.initializer if tensor.data_type in FLOATS and tensor.dims]
    if not chosen:
        return
    tensor = chosen[int(random.integers(len(chosen)))]
    array = numpy_helper.to_array(tensor).copy()
    if not array.size:
        return
    with np.errstate(over="ignore"):
        value = np.asarray(_EXTREME[int(random.integers(len(_EXTREME)))]).astype(array.dtype)
    if random.random() < 0.5:
        array.flat[int(random.integers(array.size))] = value
    else:
        array[int(random.integers(array.shape[0]))] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def reordered(model: ModelProto, random: np.random.Generator) -> None:
    """Put the nodes into another order in which each still stands behind what it reads."""
    nodes = list(model.graph.node)
    made = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    waits = [{made[name] for name in _reads(node) if name in made} for node in nodes]
    done: list[int] = []
    left = set(range(len(nodes)))
    while left:
        ready = sorted(place for place in left if waits[place] <= set(done))
        place = ready[int(random.integers(len(ready)))]
        done.append(place)
        left.remove(place)
    copies = [NodeProto.FromString(nodes[place].SerializeToString()) for place in done]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _reads(node: NodeProto) -> list[str]:
    inner = [name for graph in subgraphs(node) for each in graph.node for name in _reads(each)]
    return [*node.input, *inner]


def renamed(model: ModelProto, random: np.random.Generator) -> None:
    """Give everything but the graph's inputs and outputs another name."""
    if any(True for node in model.graph.node for _ in subgraphs(node)):
        return
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    names = {tensor.name for tensor in model.graph.initializer} | {n for node in model.graph.node for n in node.output}
    new = {name: f"t{number}" for number, name in enumerate(random.permutation(sorted(names - fixed - {""})))}
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.name = f"n{int(random.integers(1 << 30))}"
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    del model.graph.value_info[:]


VARIATIONS: dict[str, Variation] = {
    "as it is": as_it_is,
    "extreme": extreme,
    "reordered": reordered,
    "renamed": renamed,
}
