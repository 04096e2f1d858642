"""Lowers the fused nodes of a model, and its calls of model-local functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx

from onnxsqueeze.canonicalization.lowering import activated, channels_last, embedding, quantized, skip_normalization
from onnxsqueeze.canonicalization.lowering.functions import (
    Functions,
    functions_of,
    functions_with_bodies,
    key_of,
    lower_call,
)
from onnxsqueeze.canonicalization.lowering.parts import DOMAIN, Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.canonicalization.rebuild import _FIRST_WITH_FREE_INITIALIZERS, _with_nodes
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Graph, Node
from onnxsqueeze.model.local_functions import drop_uncalled
from onnxsqueeze.model.lowered_node import Lowered
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import graph_nodes
from onnxsqueeze.rules.contract import UNKNOWN
from onnxsqueeze.rules.registry import rule_for

_SHARE = 16  # of a file, by which it may grow where calls become nodes, before anything leaves

Lower = Callable[[Node, Parts, Scope], "Lowered | None"]

LOWERINGS: Mapping[tuple[str, str], Lower] = {
    (DOMAIN, "BiasGelu"): activated.lower_gelu,
    (DOMAIN, "FastGelu"): activated.lower_gelu,
    (DOMAIN, "EmbedLayerNormalization"): embedding.lower,
    (DOMAIN, "FusedConv"): activated.lower_conv,
    (DOMAIN, "FusedGemm"): activated.lower_gemm,
    (DOMAIN, "NhwcFusedConv"): activated.lower_conv_of_last,
    (DOMAIN, "NhwcMaxPool"): channels_last.lower_pool,
    (DOMAIN, "QLinearConv"): quantized.lower_convolution,
    (DOMAIN, "SkipLayerNormalization"): skip_normalization.lower,
    (DOMAIN, "SkipSimplifiedLayerNormalization"): skip_normalization.lower,
    (ONNX_DOMAIN, "QLinearConv"): quantized.lower_convolution,
    (ONNX_DOMAIN, "QLinearMatMul"): quantized.lower_product,
    (ONNX_DOMAIN, "ConvInteger"): quantized.lower_whole_numbers,
    (ONNX_DOMAIN, "MatMulInteger"): quantized.lower_whole_numbers,
    (DOMAIN, "QGemm"): quantized.lower_gemm,
    (DOMAIN, "MatMulIntegerToFloat"): quantized.lower_product_to_float,
    (DOMAIN, "DynamicQuantizeMatMul"): quantized.lower_dynamic_product,
    (DOMAIN, "QAttention"): quantized.lower_attention,
    (DOMAIN, "QEmbedLayerNormalization"): embedding.lower,
    (DOMAIN, "QLinearAdd"): quantized.lower_pair,
    (DOMAIN, "QLinearMul"): quantized.lower_pair,
    (DOMAIN, "QLinearConcat"): quantized.lower_concatenation,
    (DOMAIN, "QLinearWhere"): quantized.lower_choice,
    **{(DOMAIN, op): quantized.lower_function for op in quantized.FUNCTIONS},
}


def lowered(model: Model) -> tuple[Model, tuple[Lowered, ...]]:
    """Return a model whose fused nodes are plain ones, and what became of them; the argument if it has none.

    What they became may be fused nodes in turn, which become plain ones then.
    """
    found: list[Lowered] = []
    model, new = _lowered_once(model, None)
    while new:
        found += new
        model, new = _lowered_once(model, {name for parts in new for member in parts.members for name in member.output})
    return model, tuple(found)


def _lowered_once(model: Model, among: set[str] | None) -> tuple[Model, list[Lowered]]:
    """Lower each fused node of those that write ``among``, or of all."""
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return model, []
    functions = functions_of(model.skeleton)
    asked = [node for node in model.skeleton.graph.node if among is None or not among.isdisjoint(node.output)]
    if not any(_fused(node) or key_of(node) in functions for node in asked):
        return model, []
    graph = Graph(model)
    scope, taken = Scope(graph), _names(model)
    found = {
        node.index: parts
        for node in graph.nodes
        if (among is None or not among.isdisjoint(node.outputs))
        and (parts := _lower(node, scope, taken, functions)) is not None
    }
    nodes = [
        proto for node in graph.nodes for proto in (found[node.index].members if node.index in found else [node.proto])
    ]
    new = {constant.name: constant for parts in found.values() for constant in parts.constants}
    changed = replace(model, skeleton=_with_nodes(model.skeleton, nodes), initializers=model.initializers | new)
    return (changed, list(found.values())) if found else (model, [])


def with_bodies_in_place(model: Model) -> Model:
    """Return a model with the nodes of functions that hold graphs in the place of their calls; the argument if none is.

    What they hold can be followed then, and minimized, with what it captures. Functions of many calls whose nodes would
    make the file much longer stay.
    """
    functions = functions_with_bodies(model.skeleton)
    if not any(key_of(node) in functions for node in model.skeleton.graph.node):
        return model
    graph, taken = Graph(model), _names(model)
    found = {
        node.index: parts.members
        for node in graph.nodes
        if key_of(node.proto) in functions and (parts := lower_call(node, Parts(node, taken), functions)) is not None
    }
    if not found:
        return model
    nodes = [made for node in graph.nodes for made in found.get(node.index, [node.proto])]
    skeleton = _with_nodes(model.skeleton, nodes)
    drop_uncalled(skeleton, {(domain, name) for domain, name, _ in functions})
    growth = int(skeleton.ByteSize()) - int(model.skeleton.ByteSize())
    return replace(model, skeleton=skeleton) if growth * _SHARE <= model.file_bytes else model


def _fused(node: onnx.NodeProto) -> bool:
    return _key(node) in LOWERINGS


def _key(node: onnx.NodeProto) -> tuple[str, str]:
    return ONNX_DOMAIN if node.domain == "ai.onnx" else node.domain, node.op_type


def _lower(node: Node, scope: Scope, taken: set[str], functions: Functions) -> Lowered | None:
    """Lower a call of a function for which there is no rule, or a node that is one of onnxruntime's own operators."""
    if key_of(node.proto) in functions:
        return lower_call(node, Parts(node, taken), functions) if rule_for(node) is UNKNOWN else None
    lowering = LOWERINGS[_key(node.proto)] if _fused(node.proto) and node.version else None
    return None if lowering is None else lowering(node, Parts(node, taken), scope)


def _names(model: Model) -> set[str]:
    graph = model.skeleton.graph
    names = {value.name for value in graph.input} | set(model.initializers)
    return names.union(*((*node.input, *node.output) for node in graph_nodes(graph)))
