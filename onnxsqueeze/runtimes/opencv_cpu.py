"""OpenCV's dnn module on the CPU: ONNX files with one shape, the arithmetic on shapes folded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxsqueeze.errors import one_line
from onnxsqueeze.runtimes.base import (
    Array,
    Conversion,
    Runtime,
    RuntimeSession,
    UnsupportedModelError,
    contiguous,
    imported,
)
from onnxsqueeze.runtimes.fixed_shapes import output_names, with_fixed_shapes
from onnxsqueeze.runtimes.onnxruntime_cpu import open_session

_LONGEST_REASON = 300  # characters
_SOURCE = re.compile(r"OpenCV\([\d.\w-]+\) \S+: error: ")  # where in its source code an error comes from


def _version() -> str:
    return str(imported("cv2").__version__)  # which may come from any of four distributions


class _Session:
    def __init__(self, cv2: Any, net: Any, names: list[str]) -> None:
        self._cv2, self._net, self._names = cv2, net, names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            for name, array in contiguous(inputs).items():
                self._net.setInput(array, name)
            found = self._net.forward(self._names)
        except (self._cv2.error, TypeError) as error:
            raise _refusal(error) from None
        return {name: np.array(array) for name, array in zip(self._names, found, strict=True)}


def _convert(conversion: Conversion) -> tuple[Path, ...]:
    """Fix the shapes and let onnxruntime fold what becomes constant: OpenCV reads little of the arithmetic on shapes.

    The basic level of its optimizations keeps to standard operators.
    """
    import onnxruntime

    target = conversion.folder / "model.onnx"
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory(prefix="onnxsqueeze-") as folder:
        fixed, names, *_ = with_fixed_shapes(replace(conversion, folder=Path(folder)))
        open_session(fixed, 1, graph_optimization_level=level, optimized_model_filepath=str(target))
        return target, Path(shutil.copy(names, conversion.folder))


def _load(files: tuple[Path, ...], threads: int) -> RuntimeSession:
    cv2 = imported("cv2")
    cv2.setNumThreads(threads)
    try:
        net = cv2.dnn.readNetFromONNX(str(files[0]))
    except cv2.error as error:
        raise _refusal(error) from None
    return _Session(cv2, net, output_names(files[1]))


def _refusal(error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(_SOURCE.sub("", one_line(error))[:_LONGEST_REASON])


OPENCV = Runtime("opencv", "OpenCV dnn", "pip install onnxsqueeze[opencv]", _version, _convert, _load, one_shape=True)
