"""Small dense networks, made without torch."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper


def model(nodes: list, weights: dict[str, np.ndarray], shape: list, outputs: list) -> ModelProto:
    """Return a model with input x and output y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def dependent(random: np.random.Generator, true: int = 6, copies: int = 10) -> ModelProto:
    """Return two layers with hidden ReLUs, positive for all inputs, of which many are sums of two others."""
    first = random.normal(size=(8, true)) * 0.2
    mixed = np.stack([first[:, i % true] + first[:, (i + 1) % true] for i in range(copies)], axis=1)
    bias = np.full(true, 5.0)  # positive for all inputs, so that ReLU is linear there
    weights = {
        "w1": np.concatenate([first, mixed], axis=1),
        "b1": np.concatenate([bias, np.full(copies, 10.0)]),
        "w2": random.normal(size=(true + copies, 5)),
        "b2": random.normal(size=5),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    return model(nodes, weights, ["batch", 8], ["batch", 5])


def convolutions(random: np.random.Generator, auto_pad: str = "", group: int = 1) -> ModelProto:
    """Return three convolutions with a norm and a residual sum."""
    weights = {
        "k1": random.normal(size=(8, 2, 3, 3)) * 0.3,
        "k2": random.normal(size=(8, 8 // group, 3, 3)) * 0.2,
        "k3": random.normal(size=(3, 8, 3, 3)) * 0.2,
        "b3": random.normal(size=3),
        "g": random.uniform(0.5, 1.5, 8),
        "b": random.normal(size=8) * 0.1,
        "m": random.normal(size=8) * 0.1,
        "v": random.uniform(0.5, 1.5, 8),
    }
    pads = {"auto_pad": auto_pad} if auto_pad else {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "k1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "k2"], ["c2"], group=group, **pads),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("Relu", ["s"], ["r2"]),
        helper.make_node("Conv", ["r2", "k3", "b3"], ["y"], strides=[2, 2], dilations=[1, 1], **pads),
    ]
    return model(nodes, weights, ["batch", 2, 8, 8], ["batch", 3, 4, 4])
