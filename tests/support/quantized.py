"""Networks of codes with units planted at random places that can go, in every form in which files quantize layers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.verification.saturation import REAL_NUMBERS, encodes_signed, saturates, unsigned

Array = npt.NDArray[Any]

LIVE = "live"  # random weights, and read
DEAD = "dead"  # random weights that nobody reads
ZERO = "zero"  # weights at their zero point and no bias
CONST = "const"  # weights at their zero point and a positive bias, which is read
OFF = "off"  # weights at their zero point and a negative bias in front of a ReLU

MICROSOFT = "com.microsoft"


@dataclass
class Form:
    """How tensors are quantized.

    Attributes:
        weights, data: the dtypes of codes. per_channel: whether each output of a layer has a scale.
        shifted: whether zero points are not 0, of weights too. opset: of the model.
    """

    weights: Any = np.int8
    data: Any = np.uint8
    per_channel: bool = False
    shifted: bool = False
    opset: int = 17


@dataclass
class Tensor:
    """A tensor of real numbers, decoded where it is read: its name, its scale, and what its channels are."""

    name: str
    scale: float
    kinds: Array


@dataclass
class Codes:
    """A network under construction, in the form with QuantizeLinear and DequantizeLinear."""

    form: Form = field(default_factory=Form)
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.example: dict[str, Array] = {}

    # -- what stands in the graph -----------------------------------------------------------------------------------

    def store(self, array: Any) -> str:
        """Add an initializer."""
        name = f"c{len(self.initializers)}"
        self.initializers[name] = np.asarray(array)
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def units(self, **counts: int) -> Array:
        """Return that many units of each kind in random order."""
        return self.random.permutation([kind for kind, count in counts.items() for _ in range(count)])

    def input(self, *dims: int | str) -> Tensor:
        """Add a graph input of real numbers, encoded and decoded; strings are dynamic, of an example size."""
        self.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))
        self.example["x"] = self.random.standard_normal([4 if isinstance(size, str) else size for size in dims]).astype(
            "f"
        )
        channels = dims[1]
        assert isinstance(channels, int)
        return self.coded("x", np.full(channels, LIVE))

    def coded(self, name: str, kinds: Array, symmetric: bool = False) -> Tensor:
        """Encode and decode a tensor; its scale is chosen by what it is for the example."""
        value = self.run(name)
        info = np.iinfo(self.form.data)
        low, high = min(0.0, float(value.min())), max(float(value.max()), 1e-3)
        scale = np.float32((high - low) / (info.max - info.min))
        zero = int(np.clip(np.rint(info.min - low / scale), info.min, info.max))
        codes = self.add("QuantizeLinear", name, self.store(scale), self.store(np.array(zero, self.form.data)))
        decoded = self.add("DequantizeLinear", codes, *self.nodes[-1].input[1:])
        return Tensor(decoded, float(scale), kinds)

    def layer(
        self,
        op: str,
        x: Tensor,
        kinds: Array,
        kernel: Sequence[int] = (),
        group: int = 1,
        bias: bool = True,
        relu: bool = True,
        small: bool = False,
        **attributes: Any,
    ) -> Tensor:
        """Add a layer of codes with a bias of int32, a ReLU and the codes of what comes out.

        ``small``: whether the weights that read constants are.
        """
        out, inner = len(kinds), len(x.kinds) // group
        codes, zeros = self._weight(kinds, x.kinds if group == 1 else None, (out, inner, *kernel), small)
        scales = self.random.uniform(0.005, 0.01, out if self.form.per_channel else ()).astype("f")
        transposed = op == "MatMul"
        axis = {"axis": int(transposed)} if self.form.per_channel else {}
        weight = self.add(
            "DequantizeLinear",
            self.store(codes.T if transposed else codes),
            self.store(scales),
            self.store(zeros if self.form.per_channel else zeros[0]),
            **axis,
        )
        inputs = [x.name, weight]
        if bias:
            product = (np.float32(x.scale) * scales).astype("f")
            inputs.append(
                self.add("DequantizeLinear", self.store(self._bias(kinds)), self.store(product), **_first(axis))
            )
        given = {"group": group, **attributes} if op == "Conv" else {"transB": 1} if op == "Gemm" else {}
        y = self.add(op, *inputs, **given)
        return self.coded(self.add("Relu", y) if relu else y, kinds)

    def _weight(
        self, kinds: Array, read: Array | None, shape: tuple[int, ...], small: bool = False
    ) -> tuple[Array, Array]:
        info = np.iinfo(self.form.weights)
        middle = (info.max + info.min + 1) // 2
        shift = self.random.integers(-9, 9) if self.form.shifted else 0
        zeros = np.full(shape[0], middle + shift, self.form.weights)
        codes = self.random.integers(middle - 90, middle + 90, shape)
        codes[codes == zeros[0]] += 1
        codes[np.isin(kinds, (ZERO, CONST, OFF))] = zeros[0]
        if read is not None:
            codes[:, read == DEAD] = zeros[0]
            if small:
                shape = codes[:, read == CONST].shape
                signs = self.random.choice([-1, 1], shape)
                codes[:, read == CONST] = zeros[0] + self.random.integers(1, 4, shape) * signs
        return codes.astype(self.form.weights), zeros

    def _bias(self, kinds: Array) -> Array:
        bias = self.random.integers(-2000, 2000, len(kinds))
        bias[kinds == ZERO], bias[kinds == CONST], bias[kinds == OFF] = 0, self.random.integers(900, 4000), -700
        return bias.astype(np.int32)

    # -- the model --------------------------------------------------------------------------------------------------

    def model(self, *outputs: str) -> onnx.ModelProto:
        """Return the model with these outputs."""
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        tensors = [
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            for name, value in self.initializers.items()
        ]
        graph = helper.make_graph(self.nodes, "codes", self.inputs, values, tensors)
        opsets = [helper.make_opsetid("", self.form.opset), helper.make_opsetid(MICROSOFT, 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=8 if self.form.opset < 21 else 10)
        return onnx.shape_inference.infer_shapes(made)

    def run(self, name: str) -> Array:
        """Return a tensor for the example."""
        if name in self.example:
            return self.example[name]
        return outputs(self.model(name), self.example, optimized=False)[0]


def _first(axis: dict[str, int]) -> dict[str, int]:
    return {"axis": 0} if axis else {}


def outputs(model: onnx.ModelProto, inputs: dict[str, Array], optimized: bool = True) -> list[Array]:
    """Run a model in onnxruntime: in integers if it is optimized, else as its nodes say. No product saturates."""
    given = options(optimized)
    if saturates():
        loaded = load(model)
        model = to_proto(unsigned(loaded))
        if encodes_signed(loaded):
            given.add_session_config_entry(REAL_NUMBERS, "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), given, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def options(optimized: bool) -> onnxruntime.SessionOptions:
    """Return options of a session."""
    found = onnxruntime.SessionOptions()
    found.log_severity_level = 4
    found.intra_op_num_threads = 1
    if not optimized:
        found.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return found


def in_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model as onnxruntime saves it: layers between codes are operators on codes (QLinearConv, QGemm, …)."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "optimized.onnx")
        given = options(True)
        given.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        given.optimized_model_filepath = path
        onnxruntime.InferenceSession(model.SerializeToString(), given, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def shapes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of the constants of several axes, in the order of the file."""
    return [tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1]
