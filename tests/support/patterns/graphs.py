"""Small models written as lines such as ``y = Mul(x, g)``, and what was fused in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, parser

from onnxsqueeze.graph.graph import PATTERN_DOMAIN, Node
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import canonical_graph

Array = npt.NDArray[Any]

SIZE = 6
CONSTANTS: dict[str, Any] = {
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "half": 0.5,
    "zero": 0.0,
    "minus_half": -0.5,
    "eps": 1e-5,
    "root_two": np.sqrt(2),
    "root_half": np.sqrt(0.5),
    "slope": np.sqrt(2 / np.pi),
    "inverse_slope": np.sqrt(np.pi / 2),
    "cubic": 0.044715,
    "factor": 1.702,
    "g": np.linspace(0.5, 1.5, SIZE),
    "b": np.linspace(-1, 1, SIZE),
    "g_row": np.linspace(0.5, 1.5, SIZE).reshape(1, 1, SIZE),
    "g_channel": np.linspace(0.5, 1.5, 4)[:, None, None],
    "b_channel": np.linspace(-1, 1, 4)[:, None, None],
    "last": np.array([-1]),
}
"""What lines may read. An initializer unless a model is asked to write Constant nodes."""


def model(
    text: str,
    *,
    opset: int = 17,
    shape: str = "2,3,6",
    dtype: Any = np.float32,
    kind: Any = None,
    as_nodes: bool = False,
    scalars: tuple[int, ...] = (),
    more: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
    extra_inputs: str = "",
) -> onnx.ModelProto:
    """Return a model of lines that compute ``outputs`` from ``x``.

    Args:
        text: the lines, as onnx's parser reads them. opset: its version.
        shape: dims of ``x`` and of all outputs. dtype: of ``x`` and the outputs.
        kind: of all constants but integers, if another one.
        as_nodes: whether constants are Constant nodes.
        scalars: the shape of constants of one number. more: constants besides `CONSTANTS`.
        outputs: the graph's outputs. extra_inputs: inputs besides ``x``, as the parser reads them.
    """
    written_type = {"float32": "float", "float16": "float16", "float64": "double"}[np.dtype(dtype).name]
    written = ", ".join(f"{written_type}[{shape}] {name}" for name in outputs)
    inputs = f"{written_type}[{shape}] x" + (f", {extra_inputs}" if extra_inputs else "")
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => ({written}) {{ {text} }}'
    )
    read = {name for node in proto.graph.node for name in node.input}
    for name, value in {**CONSTANTS, **(more or {})}.items():
        array = np.asarray(value)
        array = array.astype(kind or dtype) if array.dtype.kind == "f" else array
        array = array.reshape(scalars) if array.ndim == 0 else array
        if name in read and as_nodes:
            tensor = numpy_helper.from_array(array)
            proto.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        elif name in read:
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(proto.graph.node):
        node.name, node.doc_string = f"node_{number}", f"line {number}"
    onnx.checker.check_model(proto, full_check=True)
    return proto


def fused(proto: onnx.ModelProto) -> list[Node]:
    """Return the fused nodes."""
    return [node for node in canonical_graph(load(proto)).nodes if node.domain == PATTERN_DOMAIN]


def names(proto: onnx.ModelProto) -> list[str]:
    """Return the operators of the fused nodes."""
    return [node.op for node in fused(proto)]
