"""The inputs of a model: by position or by name, and whether they fit what the model declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from onnx import TypeProto
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import declared_size, fixed_size
from onnxsqueeze.training.lowerings.node_call import torch_dtype


def bound(names: Sequence[str], positional: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return one tensor for each input.

    Raises:
        UsageError: when one is missing, given twice or unknown.
    """
    if not named and len(positional) == len(names):
        return positional
    if len(positional) > len(names):
        raise UsageError(f"{len(positional)} inputs were given, but the model has {len(names)}: {', '.join(names)}")
    rest = names[len(positional) :]
    unknown, missing = [name for name in named if name not in rest], [name for name in rest if name not in named]
    if unknown:
        raise UsageError(
            f"input '{unknown[0]}' is unknown or was given twice; the model has {', '.join(names)}: "
            "compute losses of labels outside of it"
        )
    if missing:
        raise UsageError(f"input '{missing[0]}' is missing; the model has {', '.join(names)}")
    return (*positional, *(named[name] for name in rest))


def misfit(model: Model, names: Sequence[str], inputs: Sequence[Tensor]) -> str:
    """Return in one line which input a model cannot be computed with, "" if all are as it declares."""
    try:
        check_inputs(model, names, inputs)
    except UsageError as error:
        return str(error)
    kinds = {value.name: torch_dtype(value.type.tensor_type.elem_type) for value in model.skeleton.graph.input}
    for name, tensor in zip(names, inputs, strict=True):
        if tensor.dtype == torch.float64 and kinds[name] != torch.float64:
            return f"input '{name}' is {tensor.dtype}; the model takes {kinds[name]}"
    return ""


def check_inputs(model: Model, names: Sequence[str], inputs: Sequence[Tensor]) -> None:
    """Compare inputs with what the model declares.

    Raises:
        UsageError: when a number of axes, a fixed size or the kind of numbers does not fit.
    """
    declared = {value.name: value.type.tensor_type for value in model.skeleton.graph.input}
    for name, tensor in zip(names, inputs, strict=True):
        _check(name, tensor, declared[name])


def _check(name: str, tensor: Tensor, kind: TypeProto.Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise UsageError(f"input '{name}' is a {type(tensor).__name__}, not a tensor")
    wanted = torch_dtype(kind.elem_type)
    if wanted.is_floating_point != tensor.dtype.is_floating_point:
        raise UsageError(f"input '{name}' is {tensor.dtype}; the model takes {wanted}")
    if not kind.HasField("shape"):
        return
    sizes = [fixed_size(entry) for entry in kind.shape.dim]
    fits = len(sizes) == tensor.ndim and all(
        size in (None, given) for size, given in zip(sizes, tensor.shape, strict=True)
    )
    if not fits:
        shape = [declared_size(entry) for entry in kind.shape.dim]
        raise UsageError(f"input '{name}' has the shape {list(tensor.shape)}; the model takes {shape}")
