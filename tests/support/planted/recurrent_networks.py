"""Networks with recurrent layers: wide ones some of whose units may leave, and what is left of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
NEW = {"LSTM": 3, "GRU": 2, "RNN": 0}  # the gate that makes a unit's new value, without which it stays at zero
FEATURES, OUT = 5, 3


@dataclass(frozen=True)
class Units:
    """How many units of each kind a direction has.

    live: those that stay. dead: no live unit and no head reads them. zero: nothing ever moves them from 0, be it that
    they only read each other. constant: they take one value at the first step, and only the head reads them.
    """

    live: int = 4
    dead: int = 0
    zero: int = 0
    constant: int = 0

    @property
    def total(self) -> int:
        """The number of units."""
        return self.live + self.dead + self.zero + self.constant


class RecurrentNetwork:
    """A network under construction, its sequences [steps, batch, features] unless a layer is told otherwise."""

    def __init__(self, opset: int = 17, seed: int = 0, dtype: Any = np.float32) -> None:
        self.random = np.random.default_rng(seed)
        self.opset, self.dtype = opset, np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.kinds: list[Array] = []

    def weight(self, value: Any, dtype: Any = None) -> str:
        """Add an initializer, of the network's data type unless told otherwise, and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights[name] = np.asarray(value).astype(dtype or self.dtype)
        return name

    def drawn(self, *shape: int) -> Array:
        """Draw weights of which none is zero."""
        return self.random.uniform(0.3, 1, shape) * self.random.choice([-1, 1], shape) / np.sqrt(shape[-1])

    def input(self, *dims: int | str, kind: int | None = None) -> str:
        """Add a graph input."""
        name = f"input_{len(self.inputs)}"
        kind = kind or helper.np_dtype_to_tensor_dtype(self.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return its output, or all of them if there are several."""
        names = [f"{op.lower()}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"node_{names[0]}", **attributes))
        return names[0] if outputs == 1 else names

    def recurrent(
        self,
        op: str,
        x: str,
        features: int,
        units: Units,
        *,
        directions: int = 1,
        bias: bool = True,
        states: Sequence[str] = ("", ""),
        lengths: str = "",
        peephole: bool = False,
        **attributes: Any,
    ) -> tuple[list[str], Array]:
        """Add a layer; return its outputs and the kind of each unit, [directions * units]."""
        gates, total = GATES[op], units.total
        kinds = np.repeat(["live", "dead", "zero", "constant"], [units.live, units.dead, units.zero, units.constant])
        kinds = np.stack([self.random.permutation(kinds) for _ in range(directions)])
        kernel = self.drawn(directions, gates, total, features)
        recurrent = self.drawn(directions, gates, total, total)
        biases = self.drawn(directions, 2, gates, total) * bias
        for place, own in enumerate(kinds):
            live, dead, zero, constant = (np.flatnonzero(own == kind) for kind in ("live", "dead", "zero", "constant"))
            recurrent[place][np.ix_(range(gates), live, np.concatenate([dead, constant]))] = 0
            still = np.concatenate([zero, constant])
            kernel[place, NEW[op], still] = 0
            biases[place, :, NEW[op], zero] = 0
            recurrent[place, NEW[op]][np.ix_(still, np.concatenate([live, dead, constant]))] = 0
        inputs = [x, self.weight(kernel.reshape(directions, -1, features))]
        inputs.append(self.weight(recurrent.reshape(directions, -1, total)))
        inputs.append(self.weight(biases.reshape(directions, -1)) if bias else "")
        inputs += [lengths, states[0]] + ([states[1]] if op == "LSTM" else [])
        if peephole:
            inputs.append(self.weight(self.drawn(directions, 3 * total)))
        names = self.node(
            op,
            *inputs,
            outputs=3 if op == "LSTM" else 2,
            hidden_size=total,
            direction="bidirectional" if directions == 2 else attributes.pop("direction", "forward"),
            **attributes,
        )
        self.kinds.append(kinds.ravel())
        return names, self.kinds[-1]

    def joined(self, sequence: str, units: int) -> str:
        """Bring an output [steps, directions, batch, units] to [steps, batch, directions * units], as torch does."""
        moved = self.node("Transpose", sequence, perm=[0, 2, 1, 3])
        return str(self.node("Reshape", moved, self.weight([0, 0, units], np.int64)))

    def head(self, x: str, kinds: Array) -> str:
        """Add a MatMul that does not read dead channels."""
        matrix = self.drawn(OUT, len(kinds)).T
        matrix[kinds == "dead"] = 0
        return str(self.node("MatMul", x, self.weight(matrix)))

    def model(self, output: str, dims: Sequence[int | str]) -> onnx.ModelProto:
        """Return the network with one output."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        infos = [helper.make_tensor_value_info(output, kind, dims)]
        stored = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "recurrent", self.inputs, infos, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def feeds(model: onnx.ModelProto, steps: int = 6, batch: int = 3) -> dict[str, Array]:
    """Draw sequences, initial states and lengths by the names of the dims."""
    random = np.random.default_rng(steps)
    sizes = {"T": steps, "B": batch}
    found = {}
    for info in model.graph.input:
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in info.type.tensor_type.shape.dim]
        if info.type.tensor_type.elem_type == TensorProto.INT32:
            found[info.name] = random.integers(1, steps + 1, shape).astype(np.int32)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            found[info.name] = random.standard_normal(shape).astype(dtype)
    return found
