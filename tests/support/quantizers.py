"""Models as onnxruntime's quantizers write them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto
from onnxruntime.quantization import quantize_dynamic


def dynamic(model: onnx.ModelProto, *ops: str, **options: Any) -> onnx.ModelProto:
    """Return a model whose weights are codes, and whose activations are encoded by scales that are measured.

    Args:
        model: in real numbers. ops: the operators to quantize, by default all. options: of the quantizer.
    """
    given = {"DefaultTensorType": TensorProto.FLOAT} | options.pop("extra_options", {})
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(model, before)
        quantize_dynamic(before, after, op_types_to_quantize=list(ops) or None, extra_options=given, **options)
        return onnx.load(after)
