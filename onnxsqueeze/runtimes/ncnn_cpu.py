"""ncnn on the CPU: a param file with the graph and a bin file with the weights, made by pnnx."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxsqueeze.runtimes.base import (
    Array,
    Conversion,
    NotInstalledError,
    Runtime,
    RuntimeSession,
    UnsupportedModelError,
    distribution_version,
    imported,
)

_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "f32",
    TensorProto.DOUBLE: "f64",
    TensorProto.FLOAT16: "f16",
    TensorProto.UINT8: "u8",
    TensorProto.INT8: "i8",
    TensorProto.INT16: "i16",
    TensorProto.INT32: "i32",
    TensorProto.INT64: "i64",
    TensorProto.BOOL: "bool",
}
_LONGEST_REASON = 200  # characters
# Where the program that pnnx writes feeds an input and reads an output, with the axis of the batch, which ncnn lacks.
_BLOB = re.compile(r"\b(in|out)(\d+)\.numpy\((?:\))?(?:, )?(?:batch_index=(\d+))?\)")


def _version() -> str:
    imported("ncnn")
    return distribution_version("ncnn")


class _Session:
    def __init__(self, ncnn: Any, net: Any, blobs: Mapping[str, Any]) -> None:
        self._ncnn, self._net = ncnn, net
        self._inputs: list[dict[str, Any]] = blobs["inputs"]
        self._outputs: list[dict[str, Any]] = blobs["outputs"]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._net.create_extractor() as extractor:
            for entry in self._inputs:
                array = np.ascontiguousarray(inputs[entry["name"]])
                extractor.input(entry["blob"], self._ncnn.Mat(array, **_batch(entry)).clone())
            return {entry["name"]: self._extracted(extractor, entry) for entry in self._outputs}

    def _extracted(self, extractor: Any, entry: Mapping[str, Any]) -> Array:
        code, blob = extractor.extract(entry["blob"])
        if code:
            raise UnsupportedModelError(f"ncnn fails with code {code} at output '{entry['name']}'")
        return np.array(blob.numpy(**_batch(entry)))


def _batch(entry: Mapping[str, Any]) -> dict[str, int]:
    return {} if entry["batch_axis"] is None else {"batch_index": entry["batch_axis"]}


def _convert(conversion: Conversion) -> tuple[Path, ...]:
    """Run pnnx, and write besides which blob of the net is which input or output of the graph."""
    pnnx = _pnnx()
    graph = onnx.load(conversion.model, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    shapes = ",".join(_shape(value, conversion.shapes[value.name]) for value in inputs)
    with TemporaryDirectory(prefix="onnxsqueeze-") as name:
        folder = Path(name)  # it writes a dozen files beside the model
        shutil.copy(conversion.model, folder / "model.onnx")
        command = [pnnx, "model.onnx", f"inputshape={shapes}", f"fp16={int(conversion.half)}"]
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True)
        made = [folder / f"model.ncnn.{suffix}" for suffix in ("param", "bin")]
        if done.returncode or not all(path.exists() for path in made):
            raise UnsupportedModelError(_reason(done))
        program = (folder / "model_ncnn.py").read_text(encoding="utf-8")
        names = {"in": [value.name for value in inputs], "out": [value.name for value in graph.output]}
        blobs = _blobs(program, names)
        files = [Path(shutil.copy(path, conversion.folder)) for path in made]
    table = conversion.folder / "model.ncnn.json"
    table.write_text(json.dumps(blobs, indent=2) + "\n", encoding="utf-8")
    return (*files, table)


def _pnnx() -> str:
    """Return the program, found without importing its package: that imports torch, which the program does not need."""
    found = importlib.util.find_spec("pnnx")
    if found is None or found.origin is None:
        raise NotInstalledError("pnnx is not installed")
    return str(Path(found.origin).with_name("pnnx.exe" if os.name == "nt" else "pnnx"))


def _shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> str:
    kind = value.type.tensor_type.elem_type
    if kind not in _TYPES:
        raise UnsupportedModelError(f"pnnx takes no input of the type {TensorProto.DataType.Name(kind)}")
    return f"[{','.join(map(str, shape))}]{_TYPES[kind]}"


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    said = (done.stdout + done.stderr).decode(errors="replace").replace("\r", "\n").splitlines()
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    ended = f"pnnx ends with code {done.returncode}" if done.returncode else "pnnx writes no ncnn files"
    return f"{ended}: {last[:_LONGEST_REASON]}" if last else ended


def _blobs(program: str, names: Mapping[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    found = {f"{kind}{number}": axis for kind, number, axis in _BLOB.findall(program)}
    tables: dict[str, list[dict[str, Any]]] = {}
    for kind, title in (("in", "inputs"), ("out", "outputs")):
        blobs = [f"{kind}{index}" for index in range(len(names[kind]))]
        if missing := [blob for blob in blobs if blob not in found]:
            raise UnsupportedModelError(f"pnnx drops the {title[:-1]} '{names[kind][blobs.index(missing[0])]}'")
        tables[title] = [
            {"name": name, "blob": blob, "batch_axis": int(found[blob]) if found[blob] else None}
            for name, blob in zip(names[kind], blobs, strict=True)
        ]
    return tables


def _load(files: tuple[Path, ...], threads: int) -> RuntimeSession:
    """Load a net to be computed in float32: ncnn would store and compute in 16 bits where the processor can."""
    ncnn = imported("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    for kind in ("fp16_storage", "fp16_packed", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        if hasattr(net.opt, f"use_{kind}"):
            setattr(net.opt, f"use_{kind}", False)
    param, weights, table = files
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise UnsupportedModelError(f"ncnn cannot load {param.name}: an operator that it does not have")
    return _Session(ncnn, net, json.loads(table.read_text(encoding="utf-8")))


NCNN = Runtime(
    "ncnn",
    "ncnn",
    "pip install onnxsqueeze[ncnn] && pip install --no-deps pnnx",  # which declares torch
    _version,
    _convert,
    _load,
    converters=("pnnx",),
    one_shape=True,
)
