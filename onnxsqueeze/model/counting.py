"""Counts: weight elements of a model, and shapes at given sizes for multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import onnx

from onnxsqueeze.model.constant_nodes import NOT_WEIGHTS
from onnxsqueeze.model.model import Model


def weight_elements(model: Model) -> int:
    """Return the number of weight elements: of initializers and Constant nodes, each stored tensor once."""
    stored = sum(
        prod(initializer.shape)
        for initializer in model.initializers.values()
        if initializer.header.data_type not in NOT_WEIGHTS
    )
    return stored + _constant_elements(model.skeleton.graph.node)


def _constant_elements(nodes: Iterable[onnx.NodeProto]) -> int:
    total = 0
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type not in NOT_WEIGHTS:
                total += prod(attribute.t.dims)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                total += max(1, len(attribute.floats))
    return total
