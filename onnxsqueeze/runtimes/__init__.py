"""The runtimes that models are measured in and deployed to, each in a file of its own."""

from __future__ import annotations

from onnxsqueeze.runtimes.base import Conversion, NotInstalledError, Runtime, RuntimeSession, UnsupportedModelError
from onnxsqueeze.runtimes.litert import LITERT
from onnxsqueeze.runtimes.ncnn_cpu import NCNN
from onnxsqueeze.runtimes.onnxruntime_cpu import ONNXRUNTIME, ORT_FORMAT
from onnxsqueeze.runtimes.opencv_cpu import OPENCV
from onnxsqueeze.runtimes.openvino_cpu import OPENVINO
from onnxsqueeze.runtimes.tract_cpu import TRACT
from onnxsqueeze.runtimes.web import WEB

__all__ = ["RUNTIMES", "Conversion", "NotInstalledError", "Runtime", "RuntimeSession", "UnsupportedModelError"]

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (ONNXRUNTIME, ORT_FORMAT, OPENVINO, NCNN, TRACT, OPENCV, LITERT, WEB)
}
"""All runtimes by name."""
