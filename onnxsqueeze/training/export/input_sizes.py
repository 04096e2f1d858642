"""Which sizes of an exported module's inputs are fixed, and inputs of other sizes to check it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.export.calling import NodeCall

__all__ = ["Sizes", "other_values", "batch_sizes", "given_sizes"]

BATCH = "batch"


@dataclass(frozen=True)
class Sizes:
    """The sizes of a module's inputs.

    Attributes:
        axes: for each input, what each of its dynamic axes is called, as `torch.onnx.export` takes it.
        tensors: inputs to export with.
        cases: inputs to run with.
    """

    axes: tuple[dict[int, Any], ...]
    tensors: tuple[Tensor, ...]
    cases: tuple[tuple[Tensor, ...], ...]

    @property
    def dynamic(self) -> bool:
        """Whether any size is not fixed."""
        return any(self.axes)

    def names(self, inputs: Sequence[str]) -> dict[str, dict[int, str]]:
        """Return the names of the dynamic axes by input, as the older exporter takes them."""
        return {
            name: {axis: _name(size, f"{name}_{axis}") for axis, size in axes.items()}
            for name, axes in zip(inputs, self.axes, strict=True)
            if axes
        }


def batch_sizes(call: NodeCall) -> Sizes | None:
    """Let the first axis of all inputs that are as long there as the first one be dynamic; None if there is none."""
    tensors = call.tensors
    ranked = [tensor for tensor in tensors if tensor.dim()]
    if not ranked or not ranked[0].shape[0]:
        return None
    length = ranked[0].shape[0]
    shared = [tensor.dim() > 0 and tensor.shape[0] == length for tensor in tensors]
    # An exporter takes a size of 1 for one that is always 1.
    traced = tuple(
        _longer(tensor, length) if grows and length == 1 else tensor
        for tensor, grows in zip(tensors, shared, strict=True)
    )
    more = tuple(_longer(tensor, 1) if grows else tensor for tensor, grows in zip(traced, shared, strict=True))
    return Sizes(tuple({0: BATCH} if grows else {} for grows in shared), traced, (tuple(tensors), more))


def given_sizes(call: NodeCall, dynamic_shapes: Mapping[str, Any] | Sequence[Any]) -> Sizes:
    """Let those axes be dynamic that a user names.

    Raises:
        UsageError: when they do not fit the inputs.
    """
    tensors = tuple(call.tensors)
    if isinstance(dynamic_shapes, Mapping):
        unknown = [name for name in dynamic_shapes if name not in call.names]
        if unknown:
            raise UsageError(f"dynamic_shapes names {unknown[0]}, but the inputs are {', '.join(call.names)}")
        given = [dynamic_shapes.get(name) for name in call.names]
    else:
        given = list(dynamic_shapes)
        if len(given) != len(tensors):
            raise UsageError(f"dynamic_shapes has {len(given)} entries for the inputs {', '.join(call.names)}")
    axes = tuple(map(_axes, given, call.names, tensors))
    return Sizes(axes, tensors, (tensors,))


def other_values(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return inputs like some others, with other values in the same range: numbers negated, all else in reverse."""
    return tuple(
        -tensor if tensor.is_floating_point() else tensor.flip(tuple(range(tensor.dim()))) for tensor in tensors
    )


def _axes(given: Any, name: str, tensor: Tensor) -> dict[int, Any]:
    entries = dict(given) if isinstance(given, Mapping) else dict(enumerate(given or ()))
    found = {}
    for axis, size in entries.items():
        if not isinstance(axis, int) or not -tensor.dim() <= axis < tensor.dim():
            raise UsageError(f"dynamic_shapes: {name} has {tensor.dim()} axes, and none is {axis!r}")
        if size is None or isinstance(size, int):
            continue
        if tensor.shape[axis] == 1:
            raise UsageError(
                f"dynamic_shapes: axis {axis} of {name} is 1 in the example inputs, which exporters take for always; "
                "give an example that is longer there"
            )
        found[axis % tensor.dim()] = size
    return found


def _longer(tensor: Tensor, count: int) -> Tensor:
    """Return a tensor with its first `count` rows once more."""
    return torch.cat([tensor, tensor[:count]])


def _name(size: Any, otherwise: str) -> str:
    """Return the name of a dynamic size: a text, or a Dim of torch; its hints have none."""
    if isinstance(size, str):
        return size
    found = getattr(size, "__name__", None)
    return found if isinstance(found, str) else otherwise
