"""Models with one small fault each: what a damaged file, a wrong exporter or a fuzzer makes of a sound one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import GraphProto, ModelProto

_NUMBERS = (0, 1, -1, 2, 3, 7, 64, -9, 2**31, 2**47, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, 1e30, float("nan"), float("inf"))
_BYTES = (b"", b"\xff\xfe", b"x", b"NOTSET", b"../up", b"a\0b")
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: 2**31,
    FieldDescriptor.TYPE_INT64: 2**63,
    FieldDescriptor.TYPE_UINT64: 2**64,
}
_MOST = 64  # entries of a repeated field that faults are made at

Place = tuple[Message, FieldDescriptor]


def mutant(model: ModelProto, seed: int) -> ModelProto:
    """Return a copy of a model with one to three faults, the same for the same seed."""
    random = np.random.default_rng(seed)
    copy = ModelProto.FromString(model.SerializeToString())
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        places = list(_places(copy))
        message, field = places[int(random.integers(len(places)))]
        _damage(message, field, _names(copy.graph), random)
    return copy


def _places(message: Message) -> Iterator[Place]:
    """Yield every field that is set anywhere in a message."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for item in [value] if isinstance(value, Message) else list(value)[:_MOST]:
                yield from _places(item)


def _names(graph: GraphProto) -> list[bytes]:
    """Return the names of tensors and some attributes, so that a fault may lead to another part of the model."""
    names = [name for node in graph.node for name in (*node.input, *node.output, node.op_type)]
    names += [tensor.name for tensor in graph.initializer]
    return [name.encode() for name in names if isinstance(name, str)] or [b"x"]


def _damage(message: Message, field: FieldDescriptor, names: list[bytes], random: np.random.Generator) -> None:
    if field.is_repeated:
        _damage_list(message, field, names, random)
    elif field.message_type is not None:
        message.ClearField(field.name)
    else:
        _put(message, field, _other(getattr(message, field.name), field, names, random))


def _damage_list(message: Message, field: FieldDescriptor, names: list[bytes], random: np.random.Generator) -> None:
    """Drop, double, swap or change one entry."""
    entries = list(getattr(message, field.name))
    if not entries:
        return
    place, other = (int(random.integers(min(len(entries), _MOST))) for _ in range(2))
    kind = random.choice(["drop", "double", "swap", "change", "change"])
    if kind == "drop":
        del entries[place]
    elif kind == "double":
        entries.insert(place, entries[place])
    elif kind == "swap":
        entries[place], entries[other] = entries[other], entries[place]
    elif field.message_type is None:
        entries[place] = _other(entries[place], field, names, random)
    if field.message_type is not None:
        entries = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    message.ClearField(field.name)
    for entry in entries:
        if field.message_type is not None:
            getattr(message, field.name).add().CopyFrom(entry)
        else:
            _put(message, field, entry)


def _other(value: Any, field: FieldDescriptor, names: list[bytes], random: np.random.Generator) -> Any:
    """Return another value of a field's type; text as bytes, which need not be UTF-8."""
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        own = value.encode() if isinstance(value, str) else value
        cut = own[: int(random.integers(len(own) + 1))]
        return [names[int(random.integers(len(names)))], _BYTES[int(random.integers(len(_BYTES)))], cut, own + b"\xff"][
            int(random.integers(4))
        ]
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return _FLOATS[int(random.integers(len(_FLOATS)))]
    if field.enum_type is not None:
        return int(random.integers(0, 26))
    drawn = int(value) + int(random.choice([-1, 1])) if random.random() < 0.4 else int(random.choice(_NUMBERS))
    limit = _INTEGERS.get(field.type, 2**31)
    return (drawn + limit) % (2 * limit) - limit if field.type != FieldDescriptor.TYPE_UINT64 else drawn % limit


def _put(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set a field, or append to it; text may be bytes that protobuf reads and would not set."""
    from onnxsqueeze.model import wire

    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        encoded = value.encode() if isinstance(value, str) else value
        message.MergeFromString(wire.prefix(field.number, len(encoded)) + encoded)
    elif field.is_repeated:
        getattr(message, field.name).append(value)
    elif field.enum_type is not None and field.enum_type.name == "AttributeType":
        setattr(message, field.name, value % 15)
    else:
        setattr(message, field.name, value)
