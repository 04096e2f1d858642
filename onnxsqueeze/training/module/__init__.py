"""ONNX models as trainable torch modules."""

from onnxsqueeze.training.module.onnx_module import OnnxModule, from_onnx

__all__ = ["OnnxModule", "from_onnx"]
