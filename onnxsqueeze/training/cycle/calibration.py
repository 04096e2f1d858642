"""Batches for scores: those that the user gives, else what the user's own loops feed the module."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.cycle.checking import check_runs, declared_sizes, fits
from onnxsqueeze.training.cycle.workdir import Batch
from onnxsqueeze.training.module import OnnxModule
from onnxsqueeze.training.module.inputs import bound

_ARRAYS = (torch.Tensor, np.ndarray)
MAX_SAMPLES = 1024
"""Scores of more samples are hardly better, and they are all kept."""


class Capture:
    """The first batches that a module is fed, copied to the CPU.

    Attributes:
        batches: what has come so far, at most `MAX_SAMPLES` samples.
    """

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._samples = 0

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Take a batch; the forward pre-hook."""
        if torch.compiler.is_compiling() or self._samples >= MAX_SAMPLES:
            return
        given = (*inputs, *keywords.values())
        if not self.batches and isinstance(module, OnnxModule):
            self._check(module, bound(module.input_names, inputs, keywords))
        if given and all(isinstance(value, torch.Tensor) for value in given):
            self._samples += take(self.batches, given, MAX_SAMPLES - self._samples)

    def _check(self, module: OnnxModule, given: tuple[torch.Tensor, ...]) -> None:
        """Refuse inputs that the file could never take, and warn of those for which it is too narrow."""
        for name, tensor in zip(module.input_names, given, strict=True):
            declared = declared_sizes(module.model, name)
            if declared is None or not isinstance(tensor, torch.Tensor):
                continue
            shape, wanted = tuple(tensor.shape), ", ".join(map(str, declared))
            if len(shape) != len(declared):
                raise UsageError(
                    f"the loop gives {name} the shape {shape}, the file takes ({wanted}): "
                    "give example_inputs with the axes that your loop has, a batch among them"
                )
            if not fits(declared[1:], shape[1:]):
                warnings.warn(
                    f"the loop gives {name} the shape {shape}, the file will take ({wanted}) alone: "
                    "say which sizes may vary by dynamic_shapes, or export the file so",
                    stacklevel=2,
                )


@contextmanager
def captured(module: nn.Module) -> Iterator[Capture]:
    """Keep what a module is fed."""
    capture = Capture()
    handle = module.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        yield capture
    finally:
        handle.remove()


def take(batches: list[Batch], given: Batch, room: int) -> int:
    """Append a batch, cut to the room there is where all its tensors share a first axis; return its samples."""
    lengths = {tensor.shape[0] if tensor.dim() else 0 for tensor in given}
    samples = lengths.pop() if len(lengths) == 1 else 1
    kept = given
    if samples > room and room > 0:
        kept = tuple(tensor[:room] for tensor in given)
    batches.append(tuple(tensor.detach().to("cpu", copy=True) for tensor in kept))
    return samples


def given_batches(calibration: Any, inputs: int, names: Sequence[str] = ()) -> list[Batch]:
    """Return the user's calibration data as batches on the CPU.

    Args:
        calibration: a tensor or array; a tuple of them, one for each input; or an iterable of either, or of mappings
            by name. A batch with one tensor more than there are inputs is taken for (inputs, label) of a data loader.
        inputs: how many inputs the model has. names: of these.

    Raises:
        UsageError: when it is something else, or empty.
    """
    batches: list[Batch] = []
    room = MAX_SAMPLES
    for batch in _batches(calibration, inputs, names):
        room -= take(batches, batch, room)
        if room <= 0:
            break
    if not batches:
        raise UsageError("calibration: holds no batch; give a tensor or an iterable of batches of inputs")
    return batches


def check_batches(module: OnnxModule, batches: Sequence[Batch]) -> None:
    """Refuse calibration data that a network cannot be run on, before any work is done with them.

    Raises:
        UsageError: for other sizes or types than the network takes, and for numbers that are not finite.
    """
    for batch in batches:
        for name, tensor in zip(module.input_names, batch, strict=True):
            declared = declared_sizes(module.model, name)
            shape = tuple(tensor.shape)
            if declared is not None and (len(declared) != len(shape) or not fits(declared[1:], shape[1:])):
                wanted = ", ".join(map(str, declared))
                raise UsageError(f"calibration: {name} has the shape {shape}, the model wants ({wanted})")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise UsageError(f"calibration: {name} holds numbers that are not finite; leave such samples out")
    check_runs(module, tuple(tensor[:2] if tensor.dim() else tensor for tensor in batches[0]), "calibration")


def _batches(calibration: Any, inputs: int, names: Sequence[str]) -> Iterator[Batch]:
    if isinstance(calibration, _ARRAYS) or (
        isinstance(calibration, tuple)
        and len(calibration) == inputs
        and all(isinstance(part, _ARRAYS) for part in calibration)
    ):
        calibration = [calibration]
    if not isinstance(calibration, Iterable):
        raise UsageError(f"calibration: {type(calibration).__name__} is neither a tensor nor an iterable of batches")
    for batch in calibration:
        if isinstance(batch, Mapping):
            batch = tuple(batch[name] for name in names if name in batch)
        parts = (batch,) if isinstance(batch, _ARRAYS) else tuple(batch) if isinstance(batch, Iterable) else ()
        if len(parts) == inputs + 1:
            parts = parts[:inputs]
        if len(parts) != inputs or not all(isinstance(part, _ARRAYS) for part in parts):
            raise UsageError(f"calibration: a batch must be {inputs} tensor(s), one for each input of the model")
        yield tuple(_single(torch.as_tensor(part)) for part in parts)


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor
