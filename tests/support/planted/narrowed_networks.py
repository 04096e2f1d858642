"""Small networks of layers with rows or columns of zeros, between tensors of which nothing can leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]


class Network:
    """A graph under construction, with random weights."""

    def __init__(self, seed: int = 0, opset: int = 17, dtype: Any = np.float32) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int | str) -> str:
        """Add a graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(self.dtype), shape))
        return name

    def store(self, array: Any, dtype: Any = None) -> str:
        """Add an initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype or self.dtype), name))
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def normal(self, *shape: int) -> Array:
        """Draw an array."""
        return np.asarray(self.random.standard_normal(shape))

    def places(self, count: int, width: int) -> npt.NDArray[np.int64]:
        """Draw places in any order."""
        return self.random.permutation(width)[:count]

    def weight(self, out: int, inner: int, *kernel: int, rows: int = 0, columns: int = 0) -> Array:
        """Draw a weight with rows and columns of zeros at random places."""
        weight = self.normal(out, inner, *kernel) / np.sqrt(inner * np.prod(kernel, initial=1))
        weight[self.places(rows, out)] = 0
        weight[:, self.places(columns, inner)] = 0
        return weight

    def model(self, *outputs: str, rank: int = 2) -> onnx.ModelProto:
        """Return the model; its outputs have one rank."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        made = [helper.make_tensor_value_info(name, kind, [None] * rank) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", self.inputs, made, self.constants)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        onnx.checker.check_model(model)
        return model
