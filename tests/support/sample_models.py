"""Small valid models for the tests of loading and saving, and how to compare what became of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def linear_model(*initializers: TensorProto, nodes: tuple[NodeProto, ...] = (), **options: Any) -> ModelProto:
    """Return ``y = x @ w``, with more initializers and nodes if given; opset 21, IR version 10."""
    tensors = [numpy_helper.from_array(WEIGHT, "w"), *initializers]
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph(
        [*nodes, product], "linear", [floats("x", "batch", 2)], [floats("y", "batch", 3)], tensors
    )
    return helper.make_model(
        graph, ir_version=options.pop("ir_version", 10), opset_imports=[helper.make_opsetid("", 21)], **options
    )


def floats(name: str, *shape: int | str) -> ValueInfoProto:
    """Return the declaration of a float tensor."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def separated(model: ModelProto) -> tuple[bytes, list[tuple[bytes, Any]]]:
    """Return a model in a comparable form: all but its initializers encoded, then header and value of each of them."""
    rest = ModelProto()
    rest.CopyFrom(model)
    rest.graph.ClearField("initializer")
    return rest.SerializeToString(deterministic=True), [_header_and_value(tensor) for tensor in model.graph.initializer]


def _header_and_value(tensor: TensorProto) -> tuple[bytes, Any]:
    header = TensorProto()
    header.CopyFrom(tensor)
    for item in TensorProto.DESCRIPTOR.fields:
        if item.name.endswith("_data") and item.name != "external_data":
            header.ClearField(item.name)
    if tensor.data_type == TensorProto.STRING:
        return header.SerializeToString(deterministic=True), list(tensor.string_data)
    return header.SerializeToString(deterministic=True), numpy_helper.to_array(tensor).tobytes()
