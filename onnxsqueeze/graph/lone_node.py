"""A node as a model of its own, to be run by itself."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import ModelProto, helper, numpy_helper

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.graph.graph import Graph, Node

_OLDEST_IR = 4  # before, every initializer had to be a graph input


def lone_node(
    graph: Graph, node: Node, fed: Mapping[str, Array], stored: Mapping[str, Array] | None = None
) -> ModelProto:
    """Return a model of one node.

    Args:
        graph: where the node stands, whose opsets count. node: the node, all of whose outputs become the model's.
        fed: inputs by name, of which types and shapes count. stored: those that become initializers.
    """
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in fed.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]  # of whatever type they turn out to be
    constants = [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()]
    skeleton = graph.model.skeleton
    body = helper.make_graph([node.proto], "node", inputs, outputs, constants)
    ir_version = max(skeleton.ir_version, _OLDEST_IR)
    return helper.make_model(body, opset_imports=skeleton.opset_import, ir_version=ir_version)
