"""Other ways to write a model, and constants that make a minimizer stumble."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from onnxsqueeze.model.walk import subgraphs

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_OF_OTHER_TYPES = frozenset({"Shape", "Cast", "Less", "Greater", "Equal", "Constant", "ConstantOfShape", "Size"})
"""Operators whose results are not of the network's own type, which the outputs of branches are declared to be."""
_AXES_ARE_INPUTS = 13  # the opset of Squeeze
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
    """Give everything but the graph's inputs and outputs another name, as long as before: a file must not grow."""
    if any(True for node in model.graph.node for _ in subgraphs(node)):
        return
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    names = {tensor.name for tensor in model.graph.initializer} | {n for node in model.graph.node for n in node.output}
    shuffled = random.permutation(sorted(names - fixed - {""}))
    new = {str(name): f"t{number}".ljust(len(name), "_") for number, name in enumerate(shuffled)}
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.name = f"{int(random.integers(1 << 60)):x}"[: len(node.name)]
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    del model.graph.value_info[:]


def shared(model: ModelProto, random: np.random.Generator) -> None:
    """Let one stored tensor stand for another of its shape and type, so that layers have it in common."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS and len(tensor.dims) > 1:
            alike.setdefault((tensor.data_type, *tensor.dims), []).append(tensor.name)
    groups = [names for names in alike.values() if len(names) > 1]
    if not groups:
        return
    names = groups[int(random.integers(len(groups)))]
    for node in model.graph.node:
        node.input[:] = [names[0] if name in names else name for name in node.input]


def other_type(model: ModelProto, random: np.random.Generator) -> None:
    """Compute in float64 or float16 what was float32."""
    wanted = TensorProto.DOUBLE if random.random() < 0.5 else TensorProto.FLOAT16
    if any(node.op_type == "Conv" for node in model.graph.node):  # onnxruntime has none in float64
        wanted = TensorProto.FLOAT16
    tensors = [*model.graph.initializer, *(each.t for node in model.graph.node for each in node.attribute)]
    single = {name for node in model.graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in single:
            array = numpy_helper.to_array(tensor).astype(tensor_dtype_to_np_dtype(wanted))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = wanted
    for node in model.graph.node:
        for each in node.attribute:
            if each.name in ("to", "dtype") and each.i == TensorProto.FLOAT:
                each.i = wanted
        if node.op_type == "GroupNormalization" and wanted == TensorProto.DOUBLE:  # else its sums are of float32
            node.attribute.append(helper.make_attribute("stash_type", wanted))
    del model.graph.value_info[:]


def in_function(model: ModelProto, random: np.random.Generator) -> None:
    """Put some nodes in a row into a function of the model's own."""
    part = _part(model, random)
    if part is None:
        return
    place, nodes, given, made = part
    domain = "fuzz"
    model.functions.append(helper.make_function(domain, "Part", given, made, nodes, list(model.opset_import)))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    _replace(model, place, [helper.make_node("Part", given, made, "part", domain=domain)], len(nodes))


def in_branches(model: ModelProto, random: np.random.Generator) -> None:
    """Put some nodes in a row into both branches of an If, whose condition is known only when it runs."""
    part = _part(model, random)
    if part is None or not model.graph.input:
        return
    place, nodes, _, made = part
    branches = {}
    for branch in ("then_branch", "else_branch"):
        names = {name: f"{branch}.{name}" for node in nodes for name in node.output if name}
        copies = []
        for node in nodes:
            copy = NodeProto.FromString(node.SerializeToString())
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names.get(name, name) for name in node.output]
            copies.append(copy)
        outputs = [helper.make_value_info(names[name], TypeProto()) for name in made]
        for value in outputs:
            value.type.tensor_type.elem_type = _type_of(model)
        branches[branch] = helper.make_graph(copies, branch, [], outputs)
    asked = [
        helper.make_node("Size", [model.graph.input[0].name], ["if.size"]),
        helper.make_node("Constant", [], ["if.limit"], value=numpy_helper.from_array(np.array(100, np.int64))),
        helper.make_node("Less", ["if.size", "if.limit"], ["if.condition"]),
        helper.make_node("If", ["if.condition"], made, "if", **branches),
    ]
    _replace(model, place, asked, len(nodes))


def in_a_loop(model: ModelProto, random: np.random.Generator) -> None:
    """Put some nodes in a row into the body of a Loop that runs once; what it makes comes out stacked, [1, ...]."""
    part = _part(model, random)
    if part is None:
        return
    place, nodes, _, made = part
    names = {name: f"body.{name}" for node in nodes for name in node.output if name}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    on = helper.make_tensor_value_info("body.on", TensorProto.BOOL, [])
    outputs = [on, *(helper.make_value_info(names[name], TypeProto()) for name in made)]
    for value in outputs[1:]:
        value.type.tensor_type.elem_type = _type_of(model)
    given = [helper.make_tensor_value_info("body.number", TensorProto.INT64, []), _named(on, "body.before")]
    kept = helper.make_node("Identity", ["body.before"], ["body.on"])
    body = helper.make_graph([kept, *nodes], "body", given, outputs)
    stored = {"loop.once": np.array(1), "loop.on": np.array(True), "loop.axes": np.array([0])}
    asked = [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v, n)) for n, v in stored.items()]
    asked.append(helper.make_node("Loop", ["loop.once", "loop.on"], [f"loop.{name}" for name in made], body=body))
    for name in made:
        asked.append(_squeezed(model, f"loop.{name}", name))
    _replace(model, place, asked, len(nodes))


def _named(value: ValueInfoProto, name: str) -> ValueInfoProto:
    copy = ValueInfoProto.FromString(value.SerializeToString())
    copy.name = name
    return copy


def _squeezed(model: ModelProto, stacked: str, name: str) -> NodeProto:
    if model.opset_import[0].version < _AXES_ARE_INPUTS:
        return helper.make_node("Squeeze", [stacked], [name], axes=[0])
    return helper.make_node("Squeeze", [stacked, "loop.axes"], [name])


def _type_of(model: ModelProto) -> int:
    floats = [value.type.tensor_type.elem_type for value in model.graph.output]
    return next((each for each in floats if each in FLOATS), TensorProto.FLOAT)


def _part(model: ModelProto, random: np.random.Generator) -> tuple[int, list[NodeProto], list[str], list[str]] | None:
    """Return where some nodes in a row begin, copies of them, what they read, and what of theirs others read."""
    count = len(model.graph.node)
    if count < 2 or any(True for node in model.graph.node for _ in subgraphs(node)):
        return None
    place = int(random.integers(count - 1))
    length = int(random.integers(1, min(6, count - place) + 1))
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node[place : place + length]]
    inside = {name for node in nodes for name in node.output if name}
    outside = [name for n in (*model.graph.node[:place], *model.graph.node[place + length :]) for name in n.input]
    handed = {*outside, *(value.name for value in model.graph.output)}
    made = [name for node in nodes for name in node.output if name in handed]
    if not made or any(node.op_type in _OF_OTHER_TYPES for node in nodes):
        return None
    given = list(dict.fromkeys(n for node in nodes for n in node.input if n and n not in inside))
    return place, nodes, given, made


def _replace(model: ModelProto, place: int, nodes: list[NodeProto], count: int) -> None:
    kept = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    kept[place : place + count] = nodes
    del model.graph.node[:]
    model.graph.node.extend(kept)


VARIATIONS: dict[str, Variation] = {
    "as it is": as_it_is,
    "extreme": extreme,
    "reordered": reordered,
    "renamed": renamed,
    "shared": shared,
    "other type": other_type,
    "in a function": in_function,
    "in branches": in_branches,
    "in a loop": in_a_loop,
    "external": as_it_is,
}
