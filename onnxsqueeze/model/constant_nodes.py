"""Weights that a file stores in Constant nodes: initializers while a model is worked on, nodes when it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from onnxsqueeze.errors import InvalidModelError
from onnxsqueeze.model.initializer import DATA_NAMES, Initializer, from_tensor
from onnxsqueeze.model.model import ConstantNode, Model
from onnxsqueeze.model.protobuf import copy_except, set_field
from onnxsqueeze.model.walk import read_names

# Integers of these types index, shape or select; integers of one byte or less are quantized weights.
NOT_WEIGHTS = {
    getattr(TensorProto, name) for name in ("INT64", "INT32", "UINT64", "UINT32", "INT16", "UINT16", "BOOL", "STRING")
}


def with_initializers(model: Model) -> Model:
    """Return a model whose Constant nodes that hold weights are initializers; the argument itself if it has none.

    ``constants`` of the result says of each what its node was like, for `with_constant_nodes`. Single numbers and
    integers that cannot be weights stay where they are. Subgraphs are left alone.
    """
    found = {position: weight for position, node in enumerate(model.skeleton.graph.node) if (weight := _weight(node))}
    taken = {value.name for value in model.skeleton.graph.input} | model.initializers.keys()
    found = {position: weight for position, weight in found.items() if weight.name not in taken}
    if not found:
        return model
    others, held, before = [], {}, ""
    for position, node in reversed(list(enumerate(model.skeleton.graph.node))):
        if position in found:
            held[node.output[0]] = ConstantNode(_shell(node), before)
        else:
            others.append(node)
            before = next(iter(node.output), "")
    held = dict(reversed(held.items()))
    new = {weight.name: weight for weight in found.values()}
    return replace(
        model,
        skeleton=_with_nodes(model.skeleton, reversed(others)),
        initializers={**model.initializers, **new},
        constants={**model.constants, **held},
    )


def with_constant_nodes(model: Model) -> Model:
    """Return a model as it is to be written: what came from Constant nodes is in such nodes again, where they stood."""
    back = {name: held for name, held in model.constants.items() if name in model.initializers}
    if not back:
        return replace(model, constants={}) if model.constants else model
    left = {name: entry for name, entry in model.initializers.items() if name not in back}
    skeleton = _with_nodes(model.skeleton, _placed(model, back))
    return replace(model, skeleton=skeleton, initializers=left, constants={})


def constant_node(initializer: Initializer, shell: NodeProto | None = None) -> NodeProto:
    """Return a Constant node that holds an initializer's value, in all else like ``shell``."""
    node = NodeProto(op_type="Constant", output=[initializer.name])
    if shell is not None:
        node.CopyFrom(shell)
    value = node.attribute[0] if node.attribute else node.attribute.add(name="value", type=AttributeProto.TENSOR)
    named = value.t.HasField("name"), value.t.name
    initializer.copy_to(value.t)
    value.t.ClearField("name")
    if named[0]:
        set_field(value.t, value.t.DESCRIPTOR.fields_by_name["name"], named[1])  # which need not be UTF-8
    return node


def _placed(model: Model, back: Mapping[str, ConstantNode]) -> Iterator[NodeProto]:
    """Yield the nodes of a model with Constant nodes among them, each where it stood, and before whatever reads it."""
    waiting = dict(back)
    anchored: dict[str, list[str]] = {}
    for name, held in back.items():
        anchored.setdefault(held.before, []).append(name)
    for node in model.skeleton.graph.node:
        due = [*(name for output in node.output for name in anchored.get(output, ())), *read_names(node)]
        for name in due:
            if name in waiting:
                yield constant_node(model.initializers[name], waiting.pop(name).shell)
        yield node
    for name, held in waiting.items():
        yield constant_node(model.initializers[name], held.shell)


def _shell(node: NodeProto) -> NodeProto:
    """Return a copy of a node without the data of its value, which is not copied on the way either."""
    shell = copy_except(node, "attribute")
    attribute = shell.attribute.add()
    attribute.CopyFrom(copy_except(node.attribute[0], "t"))
    attribute.t.CopyFrom(copy_except(node.attribute[0].t, *DATA_NAMES))
    return shell


def _weight(node: NodeProto) -> Initializer | None:
    """Return what a Constant node holds, if that may be a weight."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    value = node.attribute[0]
    if value.name != "value" or value.type != AttributeProto.TENSOR or len(node.output) != 1:
        return None
    if value.t.data_type in NOT_WEIGHTS or not _several(value.t.dims) or value.t.HasField("segment"):
        return None
    try:
        weight = from_tensor(value.t)
    except InvalidModelError:  # whoever runs the node will say so
        return None
    return weight.renamed(node.output[0]) if weight.is_numeric else None


def _several(dims: Iterable[int]) -> bool:
    sizes = list(dims)
    return bool(sizes) and all(size > 0 for size in sizes) and any(size > 1 for size in sizes)


def _with_nodes(skeleton: ModelProto, nodes: Iterable[NodeProto]) -> ModelProto:
    changed = copy_except(skeleton, "graph")
    changed.graph.CopyFrom(copy_except(skeleton.graph, "node"))
    changed.graph.node.extend(nodes)
    return changed
