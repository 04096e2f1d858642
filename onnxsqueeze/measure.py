"""Counts: weight elements of a model, and shapes at given sizes for multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

import onnx

from onnxsqueeze.dimension import Shape
from onnxsqueeze.loading import Model

if TYPE_CHECKING:
    from onnxsqueeze.analysis import Analysis

# Integers of these types index, shape or select; integers of one byte or less are quantized weights.
_NOT_WEIGHTS = {
    getattr(onnx.TensorProto, name)
    for name in ("INT64", "INT32", "UINT64", "UINT32", "INT16", "UINT16", "BOOL", "STRING")
}


def weight_elements(model: Model) -> int:
    """Return the number of weight elements: of initializers and Constant nodes, each stored tensor once."""
    stored = sum(
        prod(initializer.shape)
        for initializer in model.initializers.values()
        if initializer.header.data_type not in _NOT_WEIGHTS
    )
    return stored + _constant_elements(model.skeleton.graph.node)


def _constant_elements(nodes: Iterable[onnx.NodeProto]) -> int:
    total = 0
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type not in _NOT_WEIGHTS:
                total += prod(attribute.t.dims)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                total += max(1, len(attribute.floats))
    return total


def concrete_shapes(analysis: Analysis, dims: Mapping[str, int]) -> tuple[Mapping[str, Shape], dict[str, int]]:
    """Return all shapes for one sample, and the sizes that they assume for dynamic dimensions other than the batch.

    Args:
        analysis: of the model.
        dims: sizes that the user gave, by the dimension's name.
    """
    inputs = analysis.context.shapes
    later = [size for name in analysis.graph.inputs for size in inputs.get(name, ())[1:]]
    if not dims and all(isinstance(size, int) for size in later):
        return analysis.context.shapes, {}
    from onnxsqueeze.verification.sizes import Role, SizePlan

    declared = [value for value in analysis.graph.proto.input if value.name in analysis.graph.inputs]
    plan = SizePlan.of(declared, {}, {})
    sizes = {name: dims.get(name, _DEFAULT_SIZE) for name, role in plan.roles.items() if role is not Role.BATCH}
    shapes = plan.shapes({**dict.fromkeys(plan.roles, 1), **sizes})
    return _inferred(analysis, shapes or {}), sizes


def _inferred(analysis: Analysis, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    from onnxsqueeze.rule import Context, rule_for
    from onnxsqueeze.shapes import ShapeInference, fold

    context = Context(analysis.graph)
    inference = ShapeInference(analysis.graph, context)
    context.shapes.update(shapes)
    for node in analysis.graph.nodes:
        inference.infer(node, rule_for(node))
        fold(node, rule_for(node), context)
    return context.shapes


_DEFAULT_SIZE = 64  # for a dynamic image side or sequence length of which nothing is said
