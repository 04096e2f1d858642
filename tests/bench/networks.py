"""Small networks to measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.perceptrons import perceptron, saved, weights


def pair(folder: Path) -> list[Path]:
    """Save a perceptron and another one without its units that nothing reads; both compute the same."""
    units_in, units_out = weights()
    units_out[4:] = 0
    large = saved(perceptron(units_in, units_out), folder / "large.onnx")
    small = saved(perceptron(units_in[:, :4].copy(), units_out[:4].copy()), folder / "small.onnx")
    return [large, small]


def image_classifier(path: Path) -> Path:
    """Save a convolution, a pool and a matrix product on a dynamic batch, flattened as the newer exporter does."""
    random = np.random.default_rng(0)
    tensors = {
        "kernel": random.normal(size=(4, 3, 3, 3)).astype("f4"),
        "matrix": random.normal(size=(4 * 4 * 4, 5)).astype("f4"),
        "rest": np.array([64]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["pooled"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
