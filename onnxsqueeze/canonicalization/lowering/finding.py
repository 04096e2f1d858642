"""Lowers the fused nodes of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from onnxsqueeze.canonicalization.lowering import activated, skip_normalization
from onnxsqueeze.canonicalization.lowering.parts import DOMAIN, Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.canonicalization.rebuild import _FIRST_WITH_FREE_INITIALIZERS, _with_nodes
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.lowered_node import Lowered
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import graph_nodes

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
    if all(node.domain != DOMAIN or node.op_type not in LOWERINGS for node in model.skeleton.graph.node):
        return model, ()
    graph = Graph(model)
    scope, taken = Scope(graph), _names(model)
    found = {node.index: parts for node in graph.nodes if (parts := _lower(node, scope, taken)) is not None}
    nodes = [
        proto for node in graph.nodes for proto in (found[node.index].members if node.index in found else [node.proto])
    ]
    new = {constant.name: constant for parts in found.values() for constant in parts.constants}
    changed = replace(model, skeleton=_with_nodes(model.skeleton, nodes), initializers=model.initializers | new)
    return (changed, tuple(found.values())) if found else (model, ())


def _lower(node: Node, scope: Scope, taken: set[str]) -> Lowered | None:
    """Lower a node of a known operator that no model-local function stands for."""
    lower = LOWERINGS.get(node.op) if node.domain == DOMAIN and node.version else None
    return None if lower is None else lower(node, Parts(node, taken), scope)


def _names(model: Model) -> set[str]:
    graph = model.skeleton.graph
    names = {value.name for value in graph.input} | set(model.initializers)
    return names.union(*((*node.input, *node.output) for node in graph_nodes(graph)))
