"""Models in memory, of whatever kind a caller has: bytes, files that are open, and the objects of other packages."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, BinaryIO, Protocol, cast, runtime_checkable

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxsqueeze.errors import InvalidModelError, UsageError, one_line
from onnxsqueeze.model.mistaken import HEAD, mistaken


@runtime_checkable
class Program(Protocol):
    """What `torch.onnx.export` returns, a torch.onnx.ONNXProgram."""

    @property
    def model_proto(self) -> ModelProto:
        """The model."""


Source = str | os.PathLike[str] | ModelProto | bytes | bytearray | memoryview | BinaryIO | Program | Any
"""A path, or a model in memory: a ModelProto, its bytes, an open file, an onnx_ir.Model, a torch.onnx.ONNXProgram."""


def given_proto(source: Any) -> ModelProto:
    """Return a model in memory as a ModelProto.

    Args:
        source: bytes, a file that is open for reading bytes, an onnx_ir.Model, a torch.onnx.ONNXProgram, a ModelProto.

    Raises:
        UsageError: for anything else. InvalidModelError: when the bytes are no model.
    """
    if isinstance(source, ModelProto):
        return source
    source = without_file(source)
    if isinstance(source, bytes):
        return _parsed(source)
    package = sys.modules.get("onnx_ir")  # it is not imported for this: who has a model of it has imported it
    if package is not None and isinstance(source, package.Model):
        return cast(ModelProto, package.to_proto(source))
    if isinstance(getattr(type(source), "model_proto", None), property):
        return given_proto(source.model_proto)
    raise UsageError(
        f"{type(source).__name__} is nothing that a model can be read from; give a path, bytes, a file that is open, a "
        "ModelProto, an onnx_ir.Model or a torch.onnx.ONNXProgram"
    )


def without_file(source: Any) -> Any:
    """Return what an open file holds as bytes, as other bytes; anything else as it is.

    Raises:
        UsageError: when the file does not give bytes.
    """
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, io.TextIOBase):
        raise UsageError("the file is open as text; open it as bytes, with mode 'rb'")
    if not callable(getattr(source, "read", None)):
        return source
    read = source.read()
    if not isinstance(read, bytes):
        raise UsageError(f"the file gives {type(read).__name__} and not bytes; open it with mode 'rb'")
    return read


def in_memory(source: Any) -> Any:
    """Return a path as it is and a model in memory as a ModelProto, so that it can be read more than once."""
    return source if isinstance(source, (str, os.PathLike)) else given_proto(source)


def _parsed(data: bytes) -> ModelProto:
    if what := mistaken(data[:HEAD]):
        raise InvalidModelError(f"what was given is {what}")
    try:
        return cast(ModelProto, ModelProto.FromString(data))
    except DecodeError as error:
        raise InvalidModelError(f"what was given is not an ONNX model or is cut short ({one_line(error)})") from None
