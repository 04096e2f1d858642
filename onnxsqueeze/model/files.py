"""The files that a model consists of: the ONNX file and its external data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from onnxsqueeze.model.external_data import is_external
from onnxsqueeze.model.walk import all_nodes

_CHUNK = 2**20  # bytes of a file that are in memory at a time


@dataclass(frozen=True)
class File:
    """One file.

    Attributes:
        path: relative to the folder of the deployment; of a source its name alone.
        bytes: its length.
        sha256: its checksum in hexadecimal digits.
    """

    path: str
    bytes: int
    sha256: str


def files_of_model(path: Path) -> tuple[File, ...]:
    """Describe an ONNX file and the files of its external data."""
    locations = sorted(set(_locations(onnx.load(path, load_external_data=False))))
    return tuple(_described(path.parent / name, name) for name in (path.name, *locations))


def _described(path: Path, name: str) -> File:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return File(name, size, digest.hexdigest())


def _locations(model: ModelProto) -> Iterable[str]:
    for tensor in _tensors(model):
        if is_external(tensor):
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _tensors(model: ModelProto) -> Iterable[TensorProto]:
    yield from model.graph.initializer
    for node in all_nodes(model):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.g.initializer
