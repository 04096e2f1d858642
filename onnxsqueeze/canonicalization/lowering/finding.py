"""Lowers the fused nodes of a model, and its calls of model-local functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx

from onnxsqueeze.canonicalization.lowering import activated, skip_normalization
from onnxsqueeze.canonicalization.lowering.functions import Functions, functions_of, key_of, lower_call
from onnxsqueeze.canonicalization.lowering.parts import DOMAIN, Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.canonicalization.rebuild import _FIRST_WITH_FREE_INITIALIZERS, _with_nodes
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.lowered_node import Lowered
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import graph_nodes
from onnxsqueeze.rules.contract import UNKNOWN
from onnxsqueeze.rules.registry import rule_for

Lower = Callable[[Node, Parts, Scope], "Lowered | None"]

LOWERINGS: Mapping[str, Lower] = {
    "BiasGelu": activated.lower_gelu,
    "FastGelu": activated.lower_gelu,
    "FusedConv": activated.lower_conv,
    "FusedGemm": activated.lower_gemm,
    "SkipLayerNormalization": skip_normalization.lower,
    "SkipSimplifiedLayerNormalization": skip_normalization.lower,
}


def lowered(model: Model) -> tuple[Model, tuple[Lowered, ...]]:
    """Return a model whose fused nodes are plain ones, and what became of them; the argument if it has none."""
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return model, ()
    functions = functions_of(model.skeleton)
    if not any(_fused(node) or key_of(node) in functions for node in model.skeleton.graph.node):
        return model, ()
    graph = Graph(model)
    scope, taken = Scope(graph), _names(model)
    found = {node.index: parts for node in graph.nodes if (parts := _lower(node, scope, taken, functions)) is not None}
    nodes = [
        proto for node in graph.nodes for proto in (found[node.index].members if node.index in found else [node.proto])
    ]
    new = {constant.name: constant for parts in found.values() for constant in parts.constants}
    changed = replace(model, skeleton=_with_nodes(model.skeleton, nodes), initializers=model.initializers | new)
    return (changed, tuple(found.values())) if found else (model, ())


def _fused(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type in LOWERINGS


def _lower(node: Node, scope: Scope, taken: set[str], functions: Functions) -> Lowered | None:
    """Lower a call of a function for which there is no rule, or a node that is one of onnxruntime's own operators."""
    if key_of(node.proto) in functions:
        return lower_call(node, Parts(node, taken), functions) if rule_for(node) is UNKNOWN else None
    lowering = LOWERINGS[node.op] if _fused(node.proto) and node.version else None
    return None if lowering is None else lowering(node, Parts(node, taken), scope)


def _names(model: Model) -> set[str]:
    graph = model.skeleton.graph
    names = {value.name for value in graph.input} | set(model.initializers)
    return names.union(*((*node.input, *node.output) for node in graph_nodes(graph)))
