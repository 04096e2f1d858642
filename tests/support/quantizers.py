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

    The weights have seven bits: of eight, processors without VNNI give sums that depend on which products stand in a
    pair (see docs/quantized.md).

    Args:
        model: in real numbers. ops: the operators to quantize, by default all. options: of the quantizer.
    """
    options.setdefault("reduce_range", True)
    given = {"DefaultTensorType": TensorProto.FLOAT} | options.pop("extra_options", {})
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(model, before)
        quantize_dynamic(before, after, op_types_to_quantize=list(ops) or None, extra_options=given, **options)
        return onnx.load(after)
