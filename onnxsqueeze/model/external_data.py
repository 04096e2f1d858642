"""Tensors whose bytes stand in a file of their own beside the model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import EncodeError, Message
from onnx import ModelProto, TensorProto

from onnxsqueeze.errors import InvalidModelError, one_line
from onnxsqueeze.model.wire import MAPPED_FROM, Bytes, WireError, read_bytes
from onnxsqueeze.processes.mapping import CAN_MAP, mapped_file

_LONGEST_PADDING = 1 << 16  # bytes: what lies further apart has something else between


def is_external(tensor: TensorProto) -> bool:
    """Tell whether the tensor's bytes stand in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def read_external(tensor: TensorProto, folder: Path | None) -> Bytes:
    """Read a tensor's bytes from the file that it names, in the model's folder; map them if they are many.

    Args:
        tensor: a tensor whose data is external.
        folder: the model's folder; None for a model that never was a file.

    Raises:
        InvalidModelError: when the file is missing, lies outside the folder or is shorter than declared.
    """
    what = f"tensor '{tensor.name}'"
    if folder is None:
        raise InvalidModelError(
            f"{what} keeps its data in another file, which a model in memory does not locate; "
            "give the path of the model, or load it with its external data"
        )
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not all(isinstance(text, str) for entry in entries.items() for text in entry):
        raise InvalidModelError(f"{what} names its data file in bytes that are not UTF-8; the file is damaged")
    path = _resolve(folder, entries.get("location", ""), what)
    offset = _count(entries, "offset", 0, what)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = _count(entries, "length", max(size - offset, 0), what)
            if offset + length > size:
                raise InvalidModelError(
                    f"{what} declares bytes {offset} to {offset + length} of {path}, which has only {size}; "
                    "copy the whole data file again"
                )
            if length >= MAPPED_FROM and CAN_MAP:
                return mapped_file(file)[offset : offset + length].view(np.ndarray)
            return read_bytes(file, offset, offset + length)
    except (OSError, WireError) as error:
        raise InvalidModelError(f"{what}: its data file {path} cannot be read: {one_line(error)}") from None


def used_bytes(tensors: Iterable[tuple[TensorProto, int]]) -> int:
    """Return how many bytes of data files external tensors take, each given with its length; padding between counts."""
    places: dict[str, list[tuple[int, int]]] = {}
    for tensor, length in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset = int(entries.get("offset", 0))
        places.setdefault(entries["location"], []).append((offset, offset + length))
    used = 0
    for spans in places.values():
        end = min(spans)[0]
        for start, stop in sorted(spans):
            used += max(stop - max(start, end), 0)
            if 0 < start - end <= _LONGEST_PADDING:
                used += start - end
            end = max(end, stop)
    return used


def inline_external(encoded: bytes, folder: Path | None) -> bytes:
    """Replace every external tensor of an encoded model, attributes and subgraphs included, by one with its bytes.

    Raises:
        InvalidModelError: as `read_external`, or when the bytes are more than protobuf can hold.
    """
    model = ModelProto.FromString(encoded)
    tensors = [tensor for tensor in tensors_within(model) if is_external(tensor)]
    for tensor in tensors:
        raw = read_external(tensor, folder).tobytes()
        forget_location(tensor)
        tensor.raw_data = raw
    try:
        return model.SerializeToString() if tensors else encoded
    except (EncodeError, ValueError) as error:
        raise InvalidModelError(f"the external data of its attributes cannot be inlined: {one_line(error)}") from None


def forget_location(tensor: TensorProto) -> None:
    """Make an external tensor an ordinary one that has no data yet."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _resolve(folder: Path, location: str, what: str) -> Path:
    """Return the data file's path; following it must never leave the folder, by `..`, a link or an absolute path.

    But for one link, as the cache of a model hub has it: the file may itself be a link that lies in the folder. Whoever
    put the link there chose what it leads to; a model cannot make one (see SECURITY.md).
    """
    path = folder / location
    advice = "put the data file into the model's folder, or export the model again"
    if not location or "\0" in location:
        raise InvalidModelError(f"{what} does not say which file has its data; export the model again")
    if os.path.isabs(location) or not _within(path, folder):
        raise InvalidModelError(f"{what}: its data file '{location}' lies outside the model's folder; {advice}")
    if not path.exists():
        raise InvalidModelError(f"{what}: its data file {path} does not exist; {advice}")
    if not path.is_file():
        raise InvalidModelError(f"{what}: its data file {path} is not a regular file; {advice}")
    return path


def _within(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, or to a link that lies there itself."""
    root = os.path.realpath(folder)
    if Path(os.path.realpath(path)).is_relative_to(root):
        return True
    plain = ".." not in path.relative_to(folder).parts
    return plain and path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(root)


def _count(entries: dict[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidModelError(f"{what}: the {key} of its external data is '{text:.40}', no number; export it again")
    return int(text)


def tensors_within(message: Message) -> Iterator[TensorProto]:
    """Yield all tensors anywhere inside a message."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if isinstance(value, Message) else value:
            if isinstance(item, TensorProto):
                yield item
            else:
                yield from tensors_within(item)
