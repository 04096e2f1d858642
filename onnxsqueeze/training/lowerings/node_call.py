"""What a lowering gets to see of a node: its operands as tensors to compute with, and all that is known before it runs.

Lowerings are traced: an operand is a ``torch.fx.Proxy`` that stands for a tensor, and a size that is known only at run
time one that stands for an int. They are typed as what they stand for, so that a lowering reads as plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.fx import Proxy

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.graph import Node

P = ParamSpec("P")
R = TypeVar("R")

FLOATING: frozenset[int] = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16))
"""ONNX types that are computed in the module's own floating type: float32, unless it was moved to another one."""

_TORCH_TYPES: dict[int, torch.dtype] = {
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    # torch computes hardly anything in the wider unsigned types
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
}


class Tracing(Protocol):
    """The state of a trace that calls draw on."""

    def operand(self, name: str) -> Tensor:
        """Return a tensor to compute with."""

    def value(self, name: str) -> Array | None:
        """Return the value of a tensor that no parameter, statistic or input changes, else None."""

    def numbers(self, name: str) -> list[int] | None:
        """Return the entries of a small integer tensor, also those known only at run time."""

    def shape(self, name: str) -> Shape | None:
        """Return a tensor's shape with symbolic sizes, None where its rank is unknown."""

    def sizes(self, name: str) -> list[int | None] | None:
        """Return a tensor's sizes as far as they are known without it; None where its rank is unknown."""

    def dtype(self, name: str) -> int | None:
        """Return a tensor's ONNX data type."""

    def trained(self, name: str) -> bool:
        """Whether a tensor is a parameter."""

    def counted(self, name: str) -> bool:
        """Whether a tensor is what a layer makes of codes alone."""

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""

    @property
    def floating(self) -> Tensor:
        """An empty tensor of the module's floating type, on its device."""


@dataclass(frozen=True)
class NodeCall:
    """One node to be computed in torch. Positions are those of the node's inputs."""

    node: Node
    tracing: Tracing

    def has(self, position: int) -> bool:
        """Whether the node is given this input."""
        return bool(self.node.input(position))

    def operand(self, position: int) -> Tensor | None:
        """Return an input as a tensor, None where it is absent."""
        return self.tracing.operand(self.node.input(position)) if self.has(position) else None

    def tensor(self, position: int) -> Tensor:
        """Return an input that must be there.

        Raises:
            UsageError: when it is absent.
        """
        found = self.operand(position)
        if found is None:
            raise UsageError(f"node '{self.node.label}' ({self.node.operator}) lacks its input {position}")
        return found

    def tensors(self) -> list[Tensor]:
        """Return all inputs."""
        return [self.tensor(position) for position in range(len(self.node.inputs))]

    def scalar(self, position: int) -> Tensor:
        """Return an input as `tensor` does, but a constant of one element and rank 0 as a number.

        It may be of any rank up to that of the longest other input, so that it does not change the result's shape.
        """
        value = self.value(position)
        rank = max([self.rank(other) for other in range(len(self.node.inputs)) if other != position], default=0)
        if value is None or value.size != 1 or value.ndim > rank or value.dtype.kind not in "fiuV":
            return self.tensor(position)
        number: Any = int(value.item()) if value.dtype.kind in "iu" else float(value.item())
        return cast(Tensor, number)

    def value(self, position: int) -> Array | None:
        """Return an input's value, None where it is absent or not constant (whatever is trained is not)."""
        return self.tracing.value(self.node.input(position)) if self.has(position) else None

    def integers(self, position: int) -> list[int] | None:
        """Return a constant integer input as a flat list, None where it is absent or not constant."""
        array = self.value(position)
        return None if array is None else [int(entry) for entry in array.ravel()]

    def numbers(self, position: int) -> list[int] | None:
        """Return an integer input as a flat list of which some entries are computed at run time.

        None where the input is absent or it is not known how many entries it has.
        """
        return self.tracing.numbers(self.node.input(position)) if self.has(position) else None

    def shape(self, position: int) -> Shape | None:
        """Return an input's shape with symbolic sizes; None where it is absent or its rank is unknown."""
        return self.tracing.shape(self.node.input(position)) if self.has(position) else None

    def rank(self, position: int) -> int:
        """Return an input's rank, 0 where it is absent or the rank is unknown."""
        return len(self.shape(position) or ())

    def sizes(self, position: int) -> tuple[int, ...] | None:
        """Return an input's sizes to compute with: ints where they are static. None where the rank is unknown."""
        sizes = self.tracing.sizes(self.node.input(position)) if self.has(position) else None
        if sizes is None:
            return None
        return tuple(self.tensor(position).shape[axis] if size is None else size for axis, size in enumerate(sizes))

    def output_shape(self, position: int = 0) -> Shape | None:
        """Return an output's shape with symbolic sizes."""
        return self.tracing.shape(self.node.outputs[position])

    def output_sizes(self, position: int = 0) -> list[int | None] | None:
        """Return an output's sizes to compute with, None for those that only the output itself will tell."""
        return self.tracing.sizes(self.node.outputs[position])

    def output_rank(self, position: int = 0) -> int:
        """Return an output's rank, 0 where it is unknown."""
        return len(self.output_shape(position) or ())

    def dtype(self, position: int) -> int | None:
        """Return an input's ONNX data type."""
        return self.tracing.dtype(self.node.input(position))

    def output_dtype(self, position: int = 0) -> int | None:
        """Return an output's ONNX data type."""
        return self.tracing.dtype(self.node.outputs[position])

    def is_trained(self, position: int) -> bool:
        """Whether an input is a parameter, whose real numbers are computed with whatever the file stores for them."""
        return self.tracing.trained(self.node.input(position))

    def counts(self, position: int) -> bool:
        """Whether an input is a sum of products of codes: in steps of their scales a whole number of any type."""
        return self.tracing.counted(self.node.input(position))

    def is_floating(self, position: int) -> bool:
        """Whether an input holds floating-point numbers."""
        return self.dtype(position) in (*FLOATING, TensorProto.DOUBLE)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute as a Python value."""
        return self.node.attributes.get(name, default)

    @property
    def training(self) -> bool:
        """Whether the module is in training mode (known only at run time)."""
        return self.tracing.training

    @property
    def floating(self) -> Tensor:
        """An empty tensor of the module's floating type, on its device: ``x.to(call.floating)``, ``device=...``."""
        return self.tracing.floating

    def cast(self, x: Tensor, target: int, source: int | None = None) -> Tensor:
        """Return a tensor in an ONNX data type; ``source`` is the one that it has.

        Floating types of up to 32 bits are one, the module's own: what a file rounds to float16 is trained unrounded.
        """
        if target in FLOATING:
            return x if source in FLOATING else x.to(self.floating)
        return x if source == target else x.to(torch_dtype(target))


def torch_dtype(target: int) -> torch.dtype:
    """Return torch's type for an ONNX data type other than `FLOATING`, for which it is float32.

    Raises:
        UsageError: when torch has none that lowerings could compute in.
    """
    if target in FLOATING:
        return torch.float32
    if target not in _TORCH_TYPES:
        raise UsageError(f"tensors of type {helper.tensor_dtype_to_string(target)} cannot be computed with in training")
    return _TORCH_TYPES[target]


def as_torch(array: Array) -> Tensor:
    """Return a constant as a tensor of its own, in the type in which lowerings compute with it."""
    target = torch_dtype(helper.np_dtype_to_tensor_dtype(array.dtype))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize < 4:
        return torch.from_numpy(array.astype(np.float32 if target.is_floating_point else array.dtype)).to(target)
    return torch.from_numpy(np.array(array)).to(target)


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function of a module as one that traced code calls as it is, instead of what it is made of.

    It may then look at its arguments, as in ``if x.shape[0] > 1``.
    """

    @wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        found = _first_proxy((*args, *kwargs.values()))
        if found is None:
            return function(*args, **kwargs)
        return cast(R, found.tracer.create_proxy("call_function", traced, args, kwargs))

    return traced


def _first_proxy(values: Any) -> Proxy | None:
    for value in values:
        found = value if isinstance(value, Proxy) else None
        if isinstance(value, (list, tuple)):
            found = _first_proxy(value)
        if found is not None:
            return found
    return None
