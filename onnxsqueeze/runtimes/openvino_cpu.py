"""OpenVINO on the CPU: its intermediate representation, an xml file and the weights beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxsqueeze.errors import one_line
from onnxsqueeze.runtimes.base import (
    Array,
    Conversion,
    Runtime,
    RuntimeSession,
    UnsupportedModelError,
    contiguous,
    distribution_version,
    imported,
)


def _version() -> str:
    imported("openvino")
    return distribution_version("openvino")


class _Session:
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            results = self._compiled(contiguous(inputs))
        except Exception as error:  # RuntimeError and others
            raise UnsupportedModelError(one_line(error)) from None
        return {name: results[port] for port in self._compiled.outputs for name in port.get_names()}


def _convert(conversion: Conversion) -> tuple[Path, ...]:
    openvino = imported("openvino")
    target = conversion.folder / "model.xml"
    try:
        model = openvino.convert_model(str(conversion.model))
        openvino.save_model(model, str(target), compress_to_fp16=conversion.half)
    except Exception as error:  # RuntimeError and others
        raise UnsupportedModelError(one_line(error)) from None
    return target, target.with_suffix(".bin")


def _load(files: tuple[Path, ...], threads: int) -> RuntimeSession:
    """Load a model to be computed in float32: processors with bfloat16 units would use those otherwise."""
    openvino = imported("openvino")
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    try:
        return _Session(openvino.Core().compile_model(str(files[0]), "CPU", config))
    except Exception as error:  # RuntimeError and others
        raise UnsupportedModelError(one_line(error)) from None


OPENVINO = Runtime("openvino", "OpenVINO", "pip install onnxsqueeze[openvino]", _version, _convert, _load)
