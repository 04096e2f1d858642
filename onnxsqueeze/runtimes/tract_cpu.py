"""tract: ONNX files, read and run by a library in Rust. It computes in one thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxsqueeze.runtimes.base import (
    Array,
    Runtime,
    RuntimeSession,
    UnsupportedModelError,
    contiguous,
    distribution_version,
    imported,
)
from onnxsqueeze.runtimes.fixed_shapes import output_names, with_fixed_shapes

_LONGEST_REASON = 300  # characters
_STACK = "Stack backtrace:"


def _version() -> str:
    imported("tract")
    return distribution_version("tract")


class _Session:
    def __init__(self, runnable: Any, inputs: list[str], outputs: list[str]) -> None:
        self._runnable, self._inputs, self._outputs = runnable, inputs, outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        arrays = contiguous(inputs)
        try:
            results = self._runnable.run([arrays[name] for name in self._inputs])
            found = [np.array(result.to_numpy()) for result in results]
        except imported("tract").TractError as error:
            raise _refusal(error) from None
        return dict(zip(self._outputs, found, strict=True))


def _load(files: tuple[Path, ...], threads: int) -> RuntimeSession:
    tract = imported("tract")
    try:
        model = tract.Onnx().load(str(files[0]))
        inputs = [model.input_name(index) for index in range(model.input_count())]
        runnable = model.into_model().into_runnable()
    except tract.TractError as error:
        raise _refusal(error) from None
    # It calls an output by the node that computes it, but keeps the order.
    return _Session(runnable, inputs, output_names(files[1]))


def _refusal(error: Exception) -> UnsupportedModelError:
    reason = " ".join(str(error).split(_STACK)[0].split())
    return UnsupportedModelError(reason[:_LONGEST_REASON])


TRACT = Runtime("tract", "tract", "pip install onnxsqueeze[tract]", _version, with_fixed_shapes, _load, one_shape=True)
