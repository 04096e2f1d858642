"""Distillation from a teacher in any training loop: the loop computes its own loss and knows of nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.calibration.batches import device_of, measuring
from onnxsqueeze.training.calibration.likelihood import Likelihood, log_probabilities, resolved
from onnxsqueeze.training.export.calling import leaves

Outputs = Tensor | Sequence[Tensor]
Scale = float | Callable[[], float]


@dataclass(frozen=True, eq=False)
class Distillation:
    """The loss of a student against a teacher (Hinton et al., 2015).

    Attributes:
        teacher: a module that takes the student's inputs. It is run as it is: put it into eval mode.
        temperature: T; both distributions are softened by it, and the loss is multiplied by T².
        likelihood: what the outputs are; the squared difference is the loss of a "gaussian".
        output: which of several outputs is compared.
    """

    teacher: nn.Module
    temperature: float = 2.0
    likelihood: Likelihood = "auto"
    output: int = 0

    def loss(self, outputs: Outputs, *inputs: Any, **keywords: Any) -> Tensor:
        """Return the loss of outputs against the teacher's for the same inputs, the mean over samples and positions.

        For classes it is T² KL(teacher at T || student at T). The teacher gets no gradient.
        """
        with torch.no_grad():
            taught = self.teacher(*inputs, **keywords)
        return self.against(outputs, taught)

    def against(self, outputs: Outputs, taught: Outputs) -> Tensor:
        """Return the loss of outputs against those of the teacher, computed in at least float32."""
        student, teacher = _one(outputs, self.output), _one(taught, self.output).detach()
        if student.shape != teacher.shape:
            raise UsageError(
                f"the teacher's output has the shape {list(teacher.shape)}, the student's {list(student.shape)}; "
                "distillation needs the same"
            )
        kind = resolved(self.likelihood, teacher)
        if kind == "gaussian":
            return functional.mse_loss(student.float(), teacher.float())
        soft = log_probabilities(teacher, kind, self.temperature)
        own = log_probabilities(student, kind, self.temperature)
        apart = (soft.exp() * (soft - own)).sum(-1).mean()
        return apart * self.temperature**2


@contextmanager
def distilled(
    module: nn.Module,
    teacher: nn.Module,
    weight: float = 0.5,
    temperature: float = 2.0,
    *,
    likelihood: Likelihood = "auto",
    output: int = 0,
    scale: Scale = 1.0,
) -> Iterator[Distillation]:
    """Train a module against a teacher inside of the context, by a loop that only computes its own loss.

    Where the module is called in train mode, the teacher is called with the same inputs, in eval mode. The gradient g
    that the loop's loss then gives at the outputs becomes (1 - weight) g + weight * scale * (gradient of the
    distillation loss), which is that of the mixed loss. Only what the loop's loss reads is trained: outputs from which
    no gradient comes back get none from the teacher either.

    A loop that scales its loss must say so, since the gradient of the teacher cannot know: with
    ``torch.amp.GradScaler`` give ``scale=scaler.get_scale``; with gradients accumulated over k batches whose losses
    are divided by k, give ``scale=1 / k``. With DistributedDataParallel give the module inside or the wrapper; both
    losses are means over a rank's own batch. Under autocast the teacher runs in the same precision, and the loss is
    computed in float32.

    Args:
        module, teacher: student and teacher with the same inputs and the same shape of the output.
        weight: of the teacher, from 0 (none) to 1 (the loop's own loss counts for nothing).
        temperature, likelihood, output: see `Distillation`.
        scale: what the loop multiplies its loss by, a number or a function that is asked at each backward pass.

    Yields:
        the loss, for loops that would rather compute it themselves.

    Raises:
        UsageError: when the weight or the temperature is out of range or the teacher is part of the module.
    """
    _check(module, teacher, weight, temperature)
    guide = Distillation(_on_device(teacher, device_of(module)), temperature, likelihood, output)
    hook = _Mixing(guide, weight, scale)
    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        with measuring(guide.teacher):
            yield guide
    finally:
        handle.remove()


class _Mixing:
    """A forward hook that makes the outputs' gradient that of the mixed loss."""

    def __init__(self, guide: Distillation, weight: float, scale: Scale) -> None:
        self._guide = guide
        self._weight = weight
        self._scale = scale

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], outputs: Outputs
    ) -> None:
        student = _one(outputs, self._guide.output)
        if not (module.training and torch.is_grad_enabled() and student.requires_grad):
            return
        added = self._gradient(student, inputs, keywords)

        def mix(gradient: Tensor) -> Tensor:
            scale = self._scale() if callable(self._scale) else self._scale
            return (1 - self._weight) * gradient + (self._weight * scale * added).to(gradient.dtype)

        student.register_hook(mix)  # type: ignore[no-untyped-call]

    def _gradient(self, student: Tensor, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
        """Return the gradient of the distillation loss at the outputs, in float32."""
        with torch.no_grad():
            taught = self._guide.teacher(*inputs, **keywords)
        with torch.autocast(student.device.type, enabled=False), torch.enable_grad():
            leaf = student.detach().float().requires_grad_(True)
            loss = self._guide.against(leaf, _one(taught, self._guide.output).float())
            (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient


def _one(outputs: Outputs, index: int) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    tensors = [leaf for _, leaf in leaves(outputs, "") if isinstance(leaf, Tensor)]
    if index >= len(tensors):
        raise UsageError(
            f"distillation needs a module that gives a tensor or several, at least {index + 1}, "
            f"not {type(outputs).__name__}; wrap it"
        )
    return tensors[index]


def _check(module: nn.Module, teacher: nn.Module, weight: float, temperature: float) -> None:
    if not 0 <= weight <= 1:
        raise UsageError(f"the teacher's weight must lie between 0 and 1, not {weight}")
    if not 0 < temperature < float("inf"):
        raise UsageError(f"the temperature must be above 0, not {temperature}")
    own = {id(parameter) for parameter in module.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise UsageError("the teacher shares parameters with the module that it teaches; give it a copy")


def _on_device(teacher: nn.Module, device: torch.device) -> nn.Module:
    """Return the teacher on a device: itself, or a copy, so that the caller's stays where it is."""
    return teacher if device_of(teacher) == device else copy.deepcopy(teacher).to(device)
