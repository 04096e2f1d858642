"""Models as onnxruntime's optimizers write them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime import GraphOptimizationLevel

from tests.support.builders import Pair

MICROSOFT = "com.microsoft"


def fused(model: onnx.ModelProto, *expected: str, highest: bool = False) -> onnx.ModelProto:
    """Return a model as onnxruntime saves it once it has fused it, and assert that ``expected`` operators are in it.

    At its ``highest`` level it also chooses layouts, by the machine that it runs on.
    """
    levels = GraphOptimizationLevel
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if highest else levels.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = onnx.load(path)
    missing = set(expected) - operators(found)
    assert not missing, f"onnxruntime wrote no {missing}, but {operators(found)}"
    return found


def fused_pair(pair: Pair, *expected: str) -> Pair:
    """Return both networks of a pair as onnxruntime fuses them."""
    return Pair(fused(pair.wide, *expected), fused(pair.small, *expected))


def operators(model: onnx.ModelProto) -> set[str]:
    """Return onnxruntime's own operators in a model."""
    return {node.op_type for node in model.graph.node if node.domain.startswith(MICROSOFT)}
