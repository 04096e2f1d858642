"""Processors on which onnxruntime's products of codes saturate: there, models run with products that do not.

On x86 without VNNI it multiplies uint8 by int8 with an instruction that adds two products in 16 bits. Large sums end at
32,767, so that what a layer computes depends on which channels stand side by side, and a network disagrees with itself
by several percent. Products of uint8 by uint8 take another way. So weights of int8 are run as uint8, 128 higher like
their zero points: the same whole numbers. Data of int8 has no such products, and is computed with in real numbers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.products_of_codes import DECODED, PRODUCTS, Places, Reading, input_at
from onnxsqueeze.model.protobuf import copy_except

REAL_NUMBERS = "session.disable_quant_qdq"
"""The setting of a session that computes in real numbers what the file says in them, between decoding and encoding."""

_HIGHER = 128


@cache
def saturates() -> bool:
    """Whether products of uint8 and int8 saturate here."""
    import onnxruntime

    data, weight = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info("x", TensorProto.UINT8, data.shape)
    result = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    graph = helper.make_graph([node], "product", [value], [result], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": data})
    return bool((found != 64 * 255 * 127).any())


def has_codes(skeleton: ModelProto) -> bool:
    """Whether a model decodes anything, or multiplies codes."""
    return any(node.op_type == "DequantizeLinear" or node.op_type in PRODUCTS for node in skeleton.graph.node)


def encodes_signed(model: Model) -> bool:
    """Whether a model encodes anything as int8."""
    nodes = (node for node in model.skeleton.graph.node if node.op_type == "QuantizeLinear")
    zeros = (model.initializers.get(input_at(node, 2)) for node in nodes)
    return any(zero is not None and zero.header.data_type == TensorProto.INT8 for zero in zeros)


def unsigned(model: Model) -> Model:
    """Return a model that multiplies by weights of uint8 where it did by int8, with the same whole numbers.

    Operators on data of int8 stay as they are: there are none that multiply those by uint8.
    """
    graph = model.skeleton.graph
    reading, initializers = Reading(model), dict(model.initializers)
    nodes = [_raised(node, places, initializers) if (places := reading.places(node)) else node for node in graph.node]
    if len(initializers) == len(model.initializers):
        return model
    skeleton = copy_except(model.skeleton, "graph")
    skeleton.graph.CopyFrom(copy_except(graph, "node"))
    skeleton.graph.node.extend(nodes)
    return replace(model, skeleton=skeleton, initializers=initializers)


def _raised(node: NodeProto, places: Places, initializers: dict[str, Initializer]) -> NodeProto:
    """Return a node with weight and zero point of uint8, which are stored under names of their own."""
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.input.extend([""] * (places.zero + 1 - len(changed.input)))
    scales = initializers.get(node.input[1]) if places is DECODED else None
    none = np.zeros(() if scales is None else scales.shape, np.int8)
    for place in (places.weight, places.zero):
        array = initializers[given].array if (given := changed.input[place]) else none
        name = f"{node.output[0]}.{place}.unsigned"
        initializers[name] = Initializer.from_array(name, (array.astype(np.int16) + _HIGHER).astype(np.uint8))
        changed.input[place] = name
    return changed
