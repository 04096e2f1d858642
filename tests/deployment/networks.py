"""Small networks to deploy, samples for them, and whether a runtime is there to load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxsqueeze.runtimes import RUNTIMES, NotInstalledError
from onnxsqueeze.runtimes.web import web_folder

__all__ = ["Array", "classifier", "needs", "network", "sampled", "saved", "web_folder"]

Array = npt.NDArray[Any]
CLASSES = 5


def needs(runtime: str) -> None:
    """Skip a test where a runtime or its converter is not installed, and say what to install."""
    try:
        RUNTIMES[runtime].versions()
    except NotInstalledError as error:
        pytest.skip(f"{error}: {RUNTIMES[runtime].install}")


def network(
    nodes: list[NodeProto], inputs: dict[str, Any], outputs: dict[str, Any], weights: dict[str, Array], opset: int = 17
) -> ModelProto:
    """Return a model; inputs and outputs are shapes, of floats unless an array's dtype is given as (dtype, shape)."""

    def declared(name: str, given: Any) -> onnx.ValueInfoProto:
        kind, shape = given if isinstance(given, tuple) else (TensorProto.FLOAT, given)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "network",
        [declared(*entry) for entry in inputs.items()],
        [declared(*entry) for entry in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def classifier(opset: int = 17, size: int | str = 12) -> ModelProto:
    """Return a convolution, a BatchNormalization, a ReLU, a mean over space and a Gemm: 3 channels to 5 classes."""
    random = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["filtered"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["filtered", "scale", "shift", "mean", "variance"], ["normal"]),
        helper.make_node("Relu", ["normal"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "offset"], ["scores"]),
    ]
    weights = {"kernel": drawn(8, 3, 3, 3), "weight": drawn(8, CLASSES), "offset": drawn(CLASSES)}
    weights |= {name: drawn(8) for name in ("bias", "scale", "shift", "mean")}
    weights["variance"] = np.abs(drawn(8)) + np.float32(0.1)
    sides = ("height", "width") if isinstance(size, str) else (size, size)
    return network(nodes, {"image": ["batch", 3, *sides]}, {"scores": ["batch", CLASSES]}, weights, opset)


def saved(model: ModelProto, path: Path) -> Path:
    """Write a model and return its path."""
    onnx.save(model, path)
    return path


def sampled(path: Path, count: int = 40, **more: Array) -> Path:
    """Write samples for `classifier`, with more arrays beside them, and return their path."""
    image = np.random.default_rng(1).normal(size=(count, 3, 12, 12)).astype(np.float32)
    np.savez(path, image=image, **more)  # type: ignore[arg-type]
    return path
