"""What a teacher says of a training set, asked once and kept: the network that learns is faster than its teacher."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from onnxsqueeze.errors import UsageError, one_line
from onnxsqueeze.model.saving import save_bytes
from onnxsqueeze.training.calibration.batches import first_output, measuring

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a batch of inputs; it draws from the generator that it is given."""

_AT_ONCE = 500  # samples; few enough to stay in a cache


def lessons(
    teacher: nn.Module,
    inputs: Tensor,
    *,
    augment: Augment | None = None,
    copies: int = 1,
    path: str | os.PathLike[str] | None = None,
) -> Tensor:
    """Return a teacher's outputs for copies of all inputs, [copies, samples, ...].

    A few copies, changed as in training, are enough for many epochs. The loop trains on the same ones, see `augmented`,
    and compares by `Distillation.against`.

    Args:
        teacher: asked in eval mode; its mode is left as it was. Of several outputs the first counts.
        inputs: [samples, ...], on the teacher's device.
        augment: how copies are changed; None for not at all. copies: how many.
        path: a file in which the answers are kept; they are read from it where it is there.

    Raises:
        UsageError: when the file holds something else, or answers for others than these.
    """
    if path is not None and Path(path).exists():
        return _kept(Path(path), copies, inputs)
    changed = (inputs if augment is None else augmented(inputs, augment, copy) for copy in range(copies))
    with torch.no_grad(), measuring(teacher):
        found = torch.stack(
            [torch.cat([first_output(teacher(part)) for part in torch.split(x, _AT_ONCE)]) for x in changed]
        )
    if path is not None:
        stream = io.BytesIO()
        torch.save(found, stream)
        save_bytes(stream.getvalue(), Path(path))
    return found


def augmented(inputs: Tensor, augment: Augment, copy: int) -> Tensor:
    """Return one of many changed copies of all inputs; the same number gives the same copy."""
    generator = torch.Generator(inputs.device).manual_seed(copy)
    return torch.cat([augment(part, generator) for part in torch.split(inputs, _AT_ONCE)])


def _kept(path: Path, copies: int, inputs: Tensor) -> Tensor:
    try:
        found = torch.load(path, map_location=inputs.device, weights_only=True)
    except Exception as error:  # it raises whatever its format's parts raise
        raise UsageError(f"{path}: holds no lessons: {one_line(error)}; remove it or give another path") from None
    if not isinstance(found, Tensor) or tuple(found.shape[:2]) != (copies, len(inputs)):
        raise UsageError(
            f"{path}: holds no lessons for {copies} copies of {len(inputs)} samples; remove it or give another path"
        )
    return found
