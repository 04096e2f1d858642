"""The signature of a model: what its callers see."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, TypeProto, ValueInfoProto

from onnxsqueeze.model.protobuf import as_text
from onnxsqueeze.verification.model_source import Source


def signature_difference(original: Source, minimized: Source) -> str:
    """Say how the inputs or outputs of two models differ in order, name, type or shape; "" where they are identical."""
    kinds = [
        ("input", original.inputs, minimized.inputs),
        ("input with a default", original.overridable, minimized.overridable),
        ("output", original.skeleton.graph.output, minimized.skeleton.graph.output),
    ]
    found = (_difference(kind, ours, theirs) for kind, ours, theirs in kinds)
    return next(filter(None, found), "")


def _difference(kind: str, original: Sequence[ValueInfoProto], minimized: Sequence[ValueInfoProto]) -> str:
    names, new_names = [value.name for value in original], [value.name for value in minimized]
    if names != new_names:
        return f"the signature changed: {kind}s {names} became {new_names}"
    for before, after in zip(original, minimized, strict=True):
        if before.type != after.type:
            change = f"was {describe(before.type)}, is {describe(after.type)}"
            return f"the signature changed: {kind} '{before.name}' {change}"
    return ""


def describe(kind: TypeProto) -> str:
    """Write a type the short way, such as ``float[batch, 10]``."""
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return f"sequence of {describe(kind.sequence_type.elem_type)}"
    if which == "optional_type":
        return f"optional {describe(kind.optional_type.elem_type)}"
    if which == "map_type":
        return f"map of {describe(kind.map_type.value_type)}"
    if which is None:
        return "untyped"
    tensor = getattr(kind, which)
    name = TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type else "untyped"
    if not tensor.HasField("shape"):
        return f"{name} of unknown shape"
    dims = [
        as_text(dim.dim_param) or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim
    ]
    return f"{name}[{', '.join(dims)}]"
