"""Copies of protobuf messages without their large parts."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from onnxsqueeze.model import wire

_MessageType = TypeVar("_MessageType", bound=Message)


def copy_except(message: _MessageType, *names: str) -> _MessageType:
    """Return a copy of a message without the named fields.

    They are not copied on the way either: a message keeps the memory of a field that is cleared.
    """
    copy: _MessageType = type(message)()
    if len(UnknownFieldSet(message)) > 0:  # those of a newer ONNX, which only a whole copy takes along
        copy.CopyFrom(message)
        for name in names:
            copy.ClearField(name)
        return copy
    for item, value in message.ListFields():
        if item.name not in names:
            set_field(copy, item, value)
    return copy


def set_field(message: Message, item: FieldDescriptor, value: Any) -> None:
    """Set a field of any kind, or add to it where it is repeated."""
    if isinstance(value, bytes) and item.type == FieldDescriptor.TYPE_STRING:
        # Text that is not UTF-8, such as a Latin-1 doc string, which protobuf reads as bytes but would not set.
        message.MergeFromString(wire.prefix(item.number, len(value)) + value)
    elif isinstance(value, (bool, int, float, str, bytes)):
        setattr(message, item.name, value)
    else:
        getattr(message, item.name).MergeFrom(value)
        if isinstance(value, Message):
            getattr(message, item.name).SetInParent()  # an empty message that is present stays present


def as_text(value: str | bytes) -> str:
    """Return what protobuf read from a text field as text; what is not UTF-8 comes as bytes, and is spelt out."""
    return value if isinstance(value, str) else repr(value)


def dimension_name(value: str | bytes) -> str:
    """Return the name of a dynamic dimension, "" for none: a question mark, which some write for every one, is none."""
    name = as_text(value)
    return "" if name == "?" else name


def fixed_size(dim: Any) -> int | None:
    """Return the size that a `TensorShapeProto.Dimension` fixes, None for a dynamic one, which Paddle writes as -1."""
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else None


def declared_size(dim: Any) -> int | str:
    """Return the size that a `TensorShapeProto.Dimension` fixes, else its name, "?" where it has none."""
    size = fixed_size(dim)
    return (dimension_name(dim.dim_param) or "?") if size is None else size
