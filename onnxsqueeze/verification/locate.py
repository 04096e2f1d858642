"""Find the first layer at which two models part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxsqueeze.model.model import Model
from onnxsqueeze.verification.difference import Tolerance, difference
from onnxsqueeze.verification.sessions import RefusedError, Values

Run = Callable[[Model, Sequence[str]], Values]
"""Runs a model that has these tensors among its outputs and returns them."""

_AT_ONCE = 64  # tensors: all activations of a large model together may not fit into memory


def first_deviating(original: Model, minimized: Model, output: str, run: Run, tolerance: Tolerance) -> NodeProto | None:
    """Return the node of the original that makes the first tensor to deviate on the way to an output.

    Tensors of both models that have one name and shape are compared. The search goes backwards from the output through
    those that deviate: a tensor may rightly differ if what reads it makes up for that, and is then not reached.

    Args:
        original: the original.
        minimized: the minimized model.
        output: the graph output that deviates.
        run: runs one of them on the inputs that showed the deviation.
        tolerance: what is not yet a deviation.
    """
    nodes = original.skeleton.graph.node
    producers: dict[str, NodeProto] = {name: node for node in nodes for name in node.output if name}
    if output not in producers:
        return None
    theirs = {name for node in minimized.skeleton.graph.node for name in node.output}
    upstream = _upstream(output, producers)
    shared = [name for node in nodes for name in node.output if name in upstream and name in theirs and name != output]
    deviates = _deviations(original, minimized, shared, run, tolerance)
    order = {name: index for index, name in enumerate(shared)}
    current = output
    while found := [name for name in _nearest(current, producers, deviates) if deviates[name]]:
        current = min(found, key=order.__getitem__)
    return producers[current]


def with_outputs(model: Model, names: Sequence[str]) -> Model:
    """Return a model that has some of its tensors for additional outputs, of types that onnxruntime infers."""
    skeleton = ModelProto()
    skeleton.CopyFrom(model.skeleton)
    present = {value.name for value in skeleton.graph.output}
    skeleton.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in present)
    return Model(skeleton, model.initializers)


def _deviations(
    original: Model, minimized: Model, names: Sequence[str], run: Run, tolerance: Tolerance
) -> dict[str, bool]:
    """Return which tensors deviate; those that cannot be compared, as channels left them, are not in it."""
    found = {}
    for start in range(0, len(names), _AT_ONCE):
        chunk = names[start : start + _AT_ONCE]
        try:
            expected = run(with_outputs(original, chunk), chunk)
            actual = run(with_outputs(minimized, chunk), chunk)
        except RefusedError:
            continue
        for name in chunk:
            one = difference(expected[name], actual[name])
            if not one.problem or "NaN" in one.problem:
                found[name] = not tolerance.allows(one, one.scale)
    return found


def _upstream(output: str, producers: dict[str, NodeProto]) -> set[str]:
    found, waiting = set(), [output]
    while waiting:
        name = waiting.pop()
        if name not in found and name in producers:
            found.add(name)
            waiting.extend(_read(producers[name]))
    return found


def _nearest(name: str, producers: dict[str, NodeProto], compared: dict[str, bool]) -> Iterator[str]:
    """Yield the compared tensors that a tensor is made from, through any that were not compared."""
    waiting, seen = list(_read(producers[name])), {name}
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in compared:
            yield current
        elif current in producers:
            waiting.extend(_read(producers[current]))


def _read(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, also from inside its subgraphs; a name of the subgraph's own has no producer outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (*attribute.g.node, *(node for graph in attribute.graphs for node in graph.node)):
            yield from _read(inner)
