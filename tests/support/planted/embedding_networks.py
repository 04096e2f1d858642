"""Networks that start from tables: tokens, positions and kinds of tokens are looked up and make a stream of channels.

Some channels of the stream are constant, or nothing reads them, in the wide network; the small one is without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
ROWS, TOKENS, OUT = 11, 4, 3


class TableNetwork:
    """A network under construction, whose stream has ``width`` channels of which ``gone`` may leave."""

    def __init__(
        self, width: int = 9, gone: int = 4, *, opset: int = 17, seed: int = 0, dtype: Any = np.float32
    ) -> None:
        self.random = np.random.default_rng((seed, width, gone))
        self.width, self.opset, self.dtype = width, opset, np.dtype(dtype)
        self.gone = np.sort(self.random.permutation(width)[:gone])
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []

    @property
    def kept(self) -> int:
        """How many channels of the stream are needed."""
        return self.width - len(self.gone)

    def weight(self, value: Any, dtype: Any = None) -> str:
        """Add an initializer, of the network's data type unless told otherwise, and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights[name] = np.asarray(value).astype(dtype or self.dtype)
        return name

    def drawn(self, *shape: int) -> Array:
        """Draw weights of which none is zero."""
        return self.random.uniform(0.3, 1, shape) * self.random.choice([-1, 1], shape)

    def input(self, dims: Sequence[int | str], dtype: int = TensorProto.INT64) -> str:
        """Add a graph input, of token numbers unless told otherwise."""
        name = f"input_{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return that."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def table(self, rows: int, constants: Any = 0.0) -> str:
        """Add a table [rows, width] whose removable columns hold constants."""
        values = self.drawn(rows, self.width)
        values[:, self.gone] = constants
        return self.weight(values)

    def lookup(self, indices: str, rows: int = ROWS, constants: Any = 0.0) -> str:
        """Look up rows of a new table."""
        return self.node("Gather", self.table(rows, constants), indices, axis=0)

    def head(self, stream: str, out: int = OUT, reads: bool = True) -> str:
        """Read the stream by a MatMul; without ``reads`` its weights for the removable channels are zero."""
        matrix = self.drawn(self.width, out)
        if not reads:
            matrix[self.gone] = 0
        return self.node("MatMul", stream, self.weight(matrix))

    def model(self, output: str, dims: Sequence[int | str]) -> onnx.ModelProto:
        """Return the network with one output."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        made = [helper.make_tensor_value_info(output, kind, dims)]
        stored = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "tables", self.inputs, made, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def feeds(model: onnx.ModelProto, rows: int = ROWS, batch: int = 2, tokens: int = TOKENS) -> dict[str, Array]:
    """Draw token numbers (in every integer input) and values."""
    random = np.random.default_rng(0)
    found = {}
    for info in model.graph.input:
        dims = enumerate(info.type.tensor_type.shape.dim)
        shape = [dim.dim_value or (tokens if axis else batch) for axis, dim in dims]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        values = random.integers(0, rows, shape) if dtype.kind == "i" else random.standard_normal(shape)
        found[info.name] = values.astype(dtype)
    return found
