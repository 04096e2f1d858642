"""Small networks to run commands on, and how to run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from click.testing import CliRunner, Result
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxsqueeze.cli.main import main

HIDDEN, LIVE = 8, 3
Array = npt.NDArray[np.float32]


def perceptron(units_in: Array, units_out: Array, hidden: str = "hidden", node: str = "first") -> ModelProto:
    """Return ``y = Relu(x @ units_in + 1) @ units_out`` on a dynamic batch."""
    tensors = {"w1": units_in, "b1": np.ones(units_in.shape[1], np.float32), "w2": units_out}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], [hidden], name=node),
            helper.make_node("Relu", [hidden], ["positive"], name="relu"),
            helper.make_node("MatMul", ["positive", "w2"], ["y"], name="second"),
        ],
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", units_in.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", units_out.shape[1]])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(seed: int = 0) -> tuple[Array, Array]:
    """Return random weights of 4 inputs, 8 hidden units and 5 outputs, none of them zero."""
    random = np.random.default_rng(seed)
    return random.uniform(0.1, 1, (4, HIDDEN)).astype("f4"), random.uniform(0.1, 1, (HIDDEN, 5)).astype("f4")


def saved(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def width(path: Path) -> int:
    """Return how many hidden units a saved perceptron has."""
    return next(tensor.dims[0] for tensor in onnx.load(path).graph.initializer if tensor.name == "w2")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, code: int) -> str:
    """Return the error of a run that must fail with one line, and no more, on stderr."""
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("onnxsqueeze: error: ")
    assert isinstance(result.exception, SystemExit)
    return lines[0].removeprefix("onnxsqueeze: error: ")
