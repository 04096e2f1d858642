"""Calls of model-local functions, lowered to the nodes of the function.

Of an operator that a file defines itself nothing is known but its definition. A call of which only weights among its
arguments have changed is written as a call again; another one is left as the nodes, which are narrower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx.defs

from onnxsqueeze.canonicalization.inlining import defined_names, rename_all
from onnxsqueeze.canonicalization.lowering.parts import Parts
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.lowered_node import Lowered
from onnxsqueeze.model.walk import captured, function_nodes, subgraphs

Key = tuple[str, str, str]
"""The domain, the name and the overload of a function."""

Functions = Mapping[Key, onnx.FunctionProto]

_DEEPEST = 16  # calls inside of calls


def functions_of(model: onnx.ModelProto) -> Functions:
    """Return the functions of a model that can be followed.

    Their operators are those that the model imports itself, and none of their nodes holds a graph, which would read
    tensors under the function's names (see `functions_with_bodies`).
    """
    return {key: function for key, function in _imported(model).items() if not _holds_graph(function)}


def functions_with_bodies(model: onnx.ModelProto) -> Functions:
    """Return the functions of a model that can be followed and hold graphs, or call others that do."""
    functions = _imported(model)
    found = {key for key, function in functions.items() if _holds_graph(function)}
    pending = dict(functions)
    while callers := {key for key, function in pending.items() if found & set(map(key_of, function.node))} - found:
        found |= callers
    return {key: functions[key] for key in found}


def _holds_graph(function: onnx.FunctionProto) -> bool:
    return any(True for node in function.node for _ in subgraphs(node))


def _imported(model: onnx.ModelProto) -> Functions:
    """Return the functions whose operators are those that the model imports itself."""
    imported = {_domain(entry.domain): entry.version for entry in model.opset_import}
    return {
        (function.domain, function.name, function.overload): function
        for function in model.functions
        if _same_operators(function, imported)
    }


def _same_operators(function: onnx.FunctionProto, imported: Mapping[str, int]) -> bool:
    """Whether the operators of a function are the same by the versions that the model imports."""
    own = {_domain(entry.domain): entry.version for entry in function.opset_import}
    if all(imported.get(domain) == version for domain, version in own.items()):
        return True
    if any(domain not in imported for domain in own):
        return False
    pairs = {(node.op_type, _domain(node.domain)) for node in function_nodes(function)}
    return all(_since(*pair, own) == _since(*pair, imported) for pair in pairs)


def _since(op: str, domain: str, versions: Mapping[str, int]) -> int:
    """Return the version since which an operator has been as it is, the imported one where onnx does not know it."""
    version = versions.get(domain, 0)
    try:
        return int(onnx.defs.get_schema(op, version, domain).since_version)
    except onnx.defs.SchemaError:
        return version


def key_of(call: onnx.NodeProto) -> Key:
    """Return which function a node calls."""
    return call.domain, call.op_type, call.overload


def lower_call(node: Node, parts: Parts, functions: Functions) -> Lowered | None:
    """Return the nodes of a function in the place of a call; None for one that cannot be followed."""
    inputs = [parts.slot(position) if name else "" for position, name in enumerate(node.inputs)]
    try:
        _expand(node.proto, inputs, node.outputs, parts, functions, 0)
    except _NotFollowed:
        return None
    return parts.lowered() if parts.writes(node.outputs) else None


class _NotFollowed(Exception):
    """A function that cannot be followed, or that calls itself, or hands on what it is given."""


def _expand(
    call: onnx.NodeProto,
    inputs: Sequence[str],
    outputs: Sequence[str],
    parts: Parts,
    functions: Functions,
    depth: int,
) -> None:
    """Add the nodes of the function that is called; what it reads and writes has the names outside."""
    function = functions.get(key_of(call))
    if function is None or depth > _DEEPEST or len(outputs) > len(function.output):
        raise _NotFollowed
    names = dict(zip(function.input, [*inputs, *[""] * len(function.input)], strict=False))
    if set(function.output) & set(function.input):
        raise _NotFollowed
    names |= {own: outer for own, outer in zip(function.output, outputs, strict=False) if outer}
    given = _settings(call, function)
    for inner in function.node:
        for name in inner.output:
            if name and name not in names:
                names[name] = parts.name(name)
        copied = _with_bodies(_with_settings(inner, given), names, parts)
        read, written = ([names.get(name, name) for name in side] for side in (inner.input, inner.output))
        if key_of(inner) in functions:
            _expand(copied, read, written, parts, functions, depth + 1)
        else:
            parts.take(copied, read, written)


def _settings(call: onnx.NodeProto, function: onnx.FunctionProto) -> dict[str, onnx.AttributeProto]:
    """Return the attributes of a call by name, those that it leaves out as the function says."""
    given = {attribute.name: attribute for attribute in function.attribute_proto}
    return given | {attribute.name: attribute for attribute in call.attribute}


def _with_bodies(node: onnx.NodeProto, names: Mapping[str, str], parts: Parts) -> onnx.NodeProto:
    """Let the graphs that a node holds read what they capture under the names outside, and define new ones.

    Raises:
        _NotFollowed: if one captures an argument that is left out, or defines a name of the function once more.
    """
    graphs = list(subgraphs(node))
    own = {name for graph in graphs for name in defined_names(graph)}
    read = {name: parts.given(names.get(name, "")) for name in captured(node)}
    if not all(read.values()) or own & names.keys():
        raise _NotFollowed
    for graph in graphs:
        rename_all(graph, read | {name: parts.name(name) for name in own})
    return node


def _with_settings(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """Return a copy of a node with the attributes of the call in the place of references to them."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    attributes = [_resolved(attribute, given) for attribute in node.attribute]
    del copied.attribute[:]
    copied.attribute.extend(attribute for attribute in attributes if attribute is not None)
    for graph in subgraphs(copied):
        nodes = [_with_settings(inner, given) for inner in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    return copied


def _resolved(attribute: onnx.AttributeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.AttributeProto | None:
    """Return an attribute with its value; None if it refers to one that neither call nor function has."""
    if not attribute.ref_attr_name:
        return attribute
    source = given.get(attribute.ref_attr_name)
    if source is None:
        return None
    value = onnx.AttributeProto()
    value.CopyFrom(source)
    value.name = attribute.name
    return value


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
