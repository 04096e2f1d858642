"""Batches for scores: those that the user gives, else what the user's own loops feed the module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.cycle.workdir import Batch

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
        if given and all(isinstance(value, torch.Tensor) for value in given):
            self._samples += take(self.batches, given, MAX_SAMPLES - self._samples)


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


def given_batches(calibration: Any, inputs: int) -> list[Batch]:
    """Return the user's calibration data as batches on the CPU.

    Args:
        calibration: a tensor; a tuple of tensors, one for each input; or an iterable of either. A batch with one
            tensor more than there are inputs is taken for (inputs, label) of a data loader.
        inputs: how many inputs the model has.

    Raises:
        UsageError: when it is something else, or empty.
    """
    batches: list[Batch] = []
    room = MAX_SAMPLES
    for batch in _batches(calibration, inputs):
        room -= take(batches, batch, room)
        if room <= 0:
            break
    if not batches:
        raise UsageError("calibration: holds no batch; give a tensor or an iterable of batches of inputs")
    return batches


def _batches(calibration: Any, inputs: int) -> Iterator[Batch]:
    if isinstance(calibration, torch.Tensor) or (
        isinstance(calibration, tuple)
        and len(calibration) == inputs
        and all(isinstance(part, torch.Tensor) for part in calibration)
    ):
        calibration = [calibration]
    if not isinstance(calibration, Iterable):
        raise UsageError(f"calibration: {type(calibration).__name__} is neither a tensor nor an iterable of batches")
    for batch in calibration:
        parts = (batch,) if isinstance(batch, torch.Tensor) else tuple(batch) if isinstance(batch, Iterable) else ()
        if len(parts) == inputs + 1:
            parts = parts[:inputs]
        if len(parts) != inputs or not all(isinstance(part, torch.Tensor) for part in parts):
            raise UsageError(f"calibration: a batch must be {inputs} tensor(s), one for each input of the model")
        yield parts
