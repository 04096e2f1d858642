"""LiteRT (TensorFlow Lite) on the CPU: a tflite file, made by onnx2tf."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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
    distribution_version,
    imported,
)
from onnxsqueeze.runtimes.fixed_shapes import with_fixed_shapes
from onnxsqueeze.runtimes.onnxruntime_cpu import open_session

_LONGEST_REASON = 200  # characters
_SAME = 0.01  # of an output's scale: a wrong layout is off by far more, rounded weights by less


def _version() -> str:
    imported("ai_edge_litert.interpreter")
    return distribution_version("ai-edge-litert")


class _Session:
    """Runs a model whose outputs may have their channels last; `axes` says how to bring them into ONNX's order."""

    def __init__(self, interpreter: Any, axes: Mapping[str, list[int]]) -> None:
        self._runner = interpreter.get_signature_runner()
        self._axes = axes

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            outputs = self._runner(**contiguous(inputs))
        except (RuntimeError, ValueError) as error:
            raise UnsupportedModelError(one_line(error)) from None
        return {name: np.array(array).transpose(self._order(name, array)) for name, array in outputs.items()}

    def _order(self, name: str, array: Array) -> Sequence[int]:
        return self._axes.get(name, range(array.ndim))


def _convert(conversion: Conversion) -> tuple[Path, ...]:
    """Run onnx2tf, on a copy since it rewrites its input, and find out in which order the outputs' axes stand."""
    distribution_version("onnx2tf")
    model, table = conversion.folder / "model.tflite", conversion.folder / "model.tflite.json"
    with TemporaryDirectory(prefix="onnxsqueeze-") as name:
        folder = Path(name)
        _prepare(replace(conversion, folder=folder), folder / "prepared.onnx")
        shapes = [f"{key}:{','.join(map(str, shape))}" for key, shape in conversion.shapes.items()]
        command = [sys.executable, "-m", "onnx2tf", "-i", "prepared.onnx", "-o", "made", "-osd", "-coion", "-n"]
        done = subprocess.run(
            [*command, "-ois", *shapes, "-kat", *conversion.shapes],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        made = folder / "made" / f"prepared_float{16 if conversion.half else 32}.tflite"
        if done.returncode or not made.exists():
            raise UnsupportedModelError(_reason(done))
        shutil.copy(made, model)
    axes = _axes(conversion, _Session(_interpreter(model, 1), {}))
    table.write_text(json.dumps({"axes": axes}, indent=2) + "\n", encoding="utf-8")
    return model, table


def _environment() -> dict[str, str]:
    """Return an environment in which it finds onnxsim, which it calls by its bare name."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def _prepare(conversion: Conversion, target: Path) -> None:
    """Fix the shapes and let onnxruntime fold constants and expand functions, some of which onnx2tf stumbles over."""
    import onnxruntime

    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # which keeps to standard operators
    fixed = with_fixed_shapes(conversion)
    open_session(fixed[0], 1, graph_optimization_level=level, optimized_model_filepath=str(target))


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    said = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(said) if "Error" in line), "")
    return f"onnx2tf ends with code {done.returncode}: {last[:_LONGEST_REASON]}"


def _axes(conversion: Conversion, session: _Session) -> dict[str, list[int]]:
    """Return for each output of more than two axes their order, judged by one run of both models.

    onnx2tf puts channels last where the layers before an output had them so, and does not say.
    """
    from onnxsqueeze.verification.cases import CaseFinder, Request
    from onnxsqueeze.verification.model_source import Source
    from onnxsqueeze.verification.sessions import Session

    source = Source(conversion.model)
    request = Request(samples=1, input_shapes=conversion.shapes)
    case = CaseFinder(source, Session(source, optimized=False), request).find().cases[0]
    actual = session.run(case.feeds)
    found: dict[str, list[int]] = {}
    for name, expected in case.expected.items():
        if name not in actual:
            raise UnsupportedModelError(f"onnx2tf drops the output '{name}'")
        close = [order for order in _orders(expected.ndim) if _close(expected, actual[name].transpose(order))]
        if not close:
            raise UnsupportedModelError(f"onnx2tf computes something else for the output '{name}'")
        found[name] = list(close[0])
    return found


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    yield tuple(range(rank))
    if rank > 2:
        yield (0, rank - 1, *range(1, rank - 1))


def _close(expected: Array, actual: Array) -> bool:
    if expected.shape != actual.shape:
        return False
    wide = expected.astype(np.float64)
    return bool(np.abs(wide - actual).max(initial=0) <= _SAME * np.abs(wide).max(initial=0))


def _interpreter(model: Path, threads: int) -> Any:
    interpreter = imported("ai_edge_litert.interpreter").Interpreter
    try:
        made = interpreter(str(model), num_threads=threads)
        made.allocate_tensors()
        return made
    except (RuntimeError, ValueError) as error:
        raise UnsupportedModelError(one_line(error)) from None


def _load(files: tuple[Path, ...], threads: int) -> RuntimeSession:
    model, table = files
    axes: dict[str, list[int]] = json.loads(table.read_text(encoding="utf-8"))["axes"]
    return _Session(_interpreter(model, threads), axes)


LITERT = Runtime(
    "litert",
    "LiteRT",
    "pip install onnxsqueeze[litert,litert-convert]",
    _version,
    _convert,
    _load,
    converters=("onnx2tf", "tensorflow"),
    one_shape=True,
)
