"""Calibration batches in the forms that users have them in, on a module's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx.helper import tensor_dtype_to_np_dtype
from torch import Tensor, nn

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.protobuf import fixed_size

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule

Batch = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""The inputs of a model, without labels: one tensor, several in the order of the graph's inputs, or by name."""


def on_device(batch: Batch, module: OnnxModule) -> tuple[Tensor, ...]:
    """Return a batch's inputs in the order of the graph, on the device of the module.

    Raises:
        UsageError: when they are not as many tensors as the graph has inputs.
    """
    names = module.input_names
    if isinstance(batch, Tensor):
        values: Sequence[Tensor] = (batch,)
    elif isinstance(batch, Mapping):
        values = [batch[name] for name in names if name in batch]
    else:
        values = batch
    if len(values) != len(names) or not all(isinstance(value, Tensor) for value in values):
        raise UsageError(
            f"a calibration batch must hold one tensor for each of the inputs {', '.join(names)}, "
            f"without labels; this one holds {len(values)} entries"
        )
    device = device_of(module)
    return tuple(value.to(device) for value in values)


def prepared(batches: Iterable[Batch], module: OnnxModule) -> list[tuple[Tensor, ...]]:
    """Return all batches as `on_device` does.

    Raises:
        UsageError: when there is none, or as `on_device` does.
    """
    found = [on_device(batch, module) for batch in batches]
    if not found:
        raise UsageError("there is no calibration batch; give at least one, of the model's inputs without labels")
    return found


def fed(batches: Iterable[Batch], module: OnnxModule) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Return all batches as onnxruntime takes them: arrays by input, of the dtypes that the model has.

    Raises:
        UsageError: as `prepared` does.
    """
    kinds = {value.name: value.type.tensor_type.elem_type for value in module.model.skeleton.graph.input}
    names = module.input_names
    dtypes = [tensor_dtype_to_np_dtype(kinds[name]) for name in names]
    return [
        {name: value.cpu().numpy().astype(dtype) for name, value, dtype in zip(names, batch, dtypes, strict=True)}
        for batch in prepared(batches, module)
    ]


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters, the CPU if it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def small_batches(
    batches: Sequence[tuple[Tensor, ...]], module: OnnxModule, size: int, axes: Sequence[int] | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches cut into pieces of at most ``size`` samples, where the model takes batches of any size.

    Args:
        axes: along which each input has its samples; by default the first.
    """
    axes = axes or [0] * len(module.input_names)
    for batch in batches:
        lengths = {value.shape[axis] if value.dim() else 0 for value, axis in zip(batch, axes, strict=True)}
        if len(lengths) == 1 and max(lengths) > size and _any_batch(module, axes):
            parts = (torch.split(value, size, axis) for value, axis in zip(batch, axes, strict=True))
            yield from zip(*parts, strict=True)
        else:
            yield batch


def _any_batch(module: OnnxModule, axes: Sequence[int]) -> bool:
    values = {value.name: value for value in module.model.skeleton.graph.input}
    dims = [values[name].type.tensor_type.shape.dim for name in module.input_names]
    return all(len(dim) > axis and not fixed_size(dim[axis]) for dim, axis in zip(dims, axes, strict=True))


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, so that nothing is dropped and no statistics move; restore each part's mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def first_output(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the output that a loss is taken of, the first."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
