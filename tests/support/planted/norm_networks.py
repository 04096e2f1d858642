"""Networks with a normed stream: a linear layer of which some units are constant, a normalisation, readers.

Their weights are drawn so that no other unit is constant, dead or alike another. Layers are added one by one to a
`NormNetwork`; ``model`` makes the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]

FEATURES = 5  # of each token that goes in
TOKENS = 4  # where their number is static
IMAGE, EXTENT = 3, 8  # channels of an image, and its sides where they are static
MEAN_AXES_AS_INPUT = 18  # the opset in which the axes of ReduceMean became an input
AXES_AS_INPUT = 13  # the same of Unsqueeze, Squeeze, ReduceSum
FUSED = {"LayerNormalization": 17, "RMSNormalization": 23}  # the opset that brought the operator


class NormNetwork:
    """A network under construction.

    Attributes:
        width: channels of the stream. gone: which of them are constant, and may leave. constants: their values.
        opset: the opset version. dtype: of all weights, the input and the output.
        stream_weights: the names of the weight and the bias of the last stream.
    """

    def __init__(
        self,
        width: int,
        gone: int,
        constants: str | float | Sequence[float] = "zero",
        *,
        opset: int = 17,
        seed: int = 0,
        dtype: Any = np.float32,
    ) -> None:
        self.random = np.random.default_rng((seed, width, gone))
        self.width, self.opset, self.dtype = width, opset, np.dtype(dtype)
        self.gone = np.sort(self.random.permutation(width)[:gone])
        self.constants = self._constants(constants)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.stream_weights = ("", "")
        self._domains: set[str] = set()

    def _constants(self, kind: str | float | Sequence[float]) -> Array:
        if isinstance(kind, str):
            count = len(self.gone)
            kinds = {"zero": np.zeros(count), "equal": np.full(count, 0.7), "different": self.random.normal(size=count)}
            return np.asarray(kinds[kind])
        return np.broadcast_to(np.asarray(kind, dtype=np.float64), (len(self.gone),))

    @property
    def varying(self) -> Array:
        """Which channels of the stream are not constant."""
        return np.setdiff1d(np.arange(self.width), self.gone)

    def weight(self, value: Any, dtype: Any = None) -> str:
        """Add an initializer, of the network's data type unless told otherwise, and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights[name] = np.asarray(value).astype(dtype or self.dtype)
        return name

    def integers(self, *values: int) -> str:
        """Add a vector of int64."""
        return self.weight(values, np.int64)

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return that."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"node_{name}", domain=domain, **attributes))
        self._domains.add(domain)
        return name

    def normal(self, *shape: int) -> Array:
        """Draw numbers of either sign, none close to 0."""
        return self.random.uniform(0.3, 1.5, shape) * self.random.choice([-1, 1], shape)

    # -- layers --------------------------------------------------------------------------------------------------------

    def stream(self, x: str = "input", *, mean: float = 0.0, features: int = FEATURES) -> str:
        """Add the linear layer whose units ``gone`` are constant; ``mean`` is added to the bias of the others."""
        matrix, bias = self.normal(features, self.width), self.normal(self.width) + mean
        matrix[:, self.gone], bias[self.gone] = 0.0, self.constants
        self.stream_weights = self.weight(matrix), self.weight(bias)
        return self.node("Add", self.node("MatMul", x, self.stream_weights[0]), self.stream_weights[1])

    def branch(self, x: str, hidden: int = 6) -> str:
        """Add a perceptron that reads all channels of ``x`` and adds nothing to those that are ``gone``."""
        inner = self.node("Tanh", self.linear(x, hidden))
        matrix, bias = self.normal(hidden, self.width) / hidden, self.normal(self.width)
        matrix[:, self.gone], bias[self.gone] = 0.0, 0.0
        return self.node("Add", self.node("MatMul", inner, self.weight(matrix)), self.weight(bias))

    def linear(self, x: str, units: int = 3, *, columns: bool = True) -> str:
        """Add a linear layer; ``columns`` says whether its weights of the channels that are ``gone`` are not zero."""
        matrix = self.normal(self.width, units) / np.sqrt(self.width)
        matrix[self.gone] *= columns
        return self.node("Add", self.node("MatMul", x, self.weight(matrix)), self.weight(self.normal(units)))

    def layer_norm(
        self, x: str, *, scale: Any = None, bias: Any = None, epsilon: float = 1e-5, fused: bool | None = None
    ) -> str:
        """Add a LayerNormalization over the last axis, spelt out where the opset has none."""
        parameters = [self.weight(self.normal(self.width) if scale is None else scale)]
        parameters.append(self.weight(self.normal(self.width) if bias is None else bias))
        if self.opset >= FUSED["LayerNormalization"] if fused is None else fused:
            return self.node("LayerNormalization", x, *parameters, axis=-1, epsilon=epsilon)
        centred = self.node("Sub", x, self.mean(x, -1))
        unit = self.node("Div", centred, self._root(self._squares(centred), epsilon))
        return self.node("Add", self.node("Mul", unit, parameters[0]), parameters[1])

    def rms_norm(self, x: str, *, scale: Any = None, epsilon: float = 1e-5, fused: bool | None = None) -> str:
        """Add an RMSNormalization over the last axis, spelt out where the opset has none."""
        parameter = self.weight(self.normal(self.width) if scale is None else scale)
        if self.opset >= FUSED["RMSNormalization"] if fused is None else fused:
            return self.node("RMSNormalization", x, parameter, axis=-1, epsilon=epsilon)
        return self.node("Mul", self.node("Div", x, self._root(self._squares(x), epsilon)), parameter)

    def _squares(self, x: str) -> str:
        return self.mean(self.node("Pow", x, self.weight(2.0)), -1)

    def _root(self, variance: str, epsilon: float) -> str:
        return self.node("Sqrt", self.node("Add", variance, self.weight(epsilon)))

    def mean(self, x: str, *axes: int, keepdims: int = 1) -> str:
        """Add a ReduceMean."""
        return self.reduce("ReduceMean", x, *axes, since=MEAN_AXES_AS_INPUT, keepdims=keepdims)

    def reduce(self, op: str, x: str, *axes: int, since: int, **attributes: Any) -> str:
        """Add a node whose axes are an input since some opset."""
        if self.opset < since:
            return self.node(op, x, axes=list(axes), **attributes)
        return self.node(op, x, self.integers(*axes), **attributes)

    # -- images -------------------------------------------------------------------------------------------------------

    def convolution(self, x: str = "input") -> str:
        """Add a padded convolution whose units ``gone`` are constant."""
        kernel, bias = self.normal(self.width, IMAGE, 3, 3), self.normal(self.width)
        kernel[self.gone], bias[self.gone] = 0.0, self.constants
        return self.node("Conv", x, self.weight(kernel), self.weight(bias), pads=[1, 1, 1, 1])

    def pointwise(self, x: str, units: int = 3, *, columns: bool = True) -> str:
        """Add a convolution; ``columns`` says whether its weights of the channels that are ``gone`` are not zero."""
        kernel = self.normal(units, self.width, 1, 1) / np.sqrt(self.width)
        kernel[:, self.gone] *= columns
        return self.node("Conv", x, self.weight(kernel), self.weight(self.normal(units)))

    def group_norm(self, x: str, groups: int, *, spelling: str, muted: bool = False, epsilon: float = 1e-5) -> str:
        """Add a GroupNormalization; ``muted`` sets the scale of the channels that are ``gone`` to 0.

        That is an operator since opset 21. Exporters spell it out, with the image's shape as a constant (``static``),
        computed (``dynamic``), or without scale and bias (``bare``).
        """
        scale, bias = self.normal(self.width), self.normal(self.width)
        if muted:
            scale[self.gone] = 0
        if spelling == "operator":
            parameters = [self.weight(scale), self.weight(bias)]
            return self.node("GroupNormalization", x, *parameters, num_groups=groups, epsilon=epsilon)
        split = self.node("Reshape", x, self.integers(0, groups, -1))
        ones, zeros = self.weight(np.ones(groups)), self.weight(np.zeros(groups))
        normed = self.node("InstanceNormalization", split, ones, zeros, epsilon=epsilon)
        shape = self.node("Shape", x) if spelling != "static" else self.integers(1, self.width, EXTENT, EXTENT)
        image = self.node("Reshape", normed, shape)
        if spelling == "bare":
            return image
        scaled = self.node("Mul", image, self.weight(scale.reshape(-1, 1, 1)))
        return self.node("Add", scaled, self.weight(bias.reshape(-1, 1, 1)))

    # -- the result ---------------------------------------------------------------------------------------------------

    def model(
        self,
        *outputs: str,
        ranks: Sequence[int] = (3,),
        dims: Sequence[int | str] = ("N", "T", FEATURES),
        declare: bool = False,
    ) -> onnx.ModelProto:
        """Return the model; all dims of outputs are dynamic. ``declare`` writes the shapes of all tensors into it."""
        renamed = {name: f"output_{number}" for number, name in enumerate(outputs)}
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        infos = []
        for number, rank in zip(range(len(outputs)), (*ranks, *ranks[-1:] * len(outputs)), strict=False):
            shape = [f"out{number}_{axis}" for axis in range(rank)]
            infos.append(helper.make_tensor_value_info(f"output_{number}", kind, shape))
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        given = [helper.make_tensor_value_info("input", kind, dims)]
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "normed", given, infos, weights)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(name, 1) for name in self._domains - {""})]
        version = max(7, helper.find_min_ir_version_for(opsets[:1]))
        made = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        return onnx.shape_inference.infer_shapes(made) if declare else made
