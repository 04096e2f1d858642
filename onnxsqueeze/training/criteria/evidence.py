"""What a criterion may ask about a weight, each answer measured when it is first asked for and then kept for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.calibration.batches import Batch, device_of, first_output, measuring, prepared, small_batches
from onnxsqueeze.training.calibration.likelihood import Likelihood, resolved, sampled_loss
from onnxsqueeze.units.weight_uses import Use, by_weight, linear_uses

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule

Losses = Callable[[nn.Module], Iterable[Tensor]]
"""A user's own loss: yields that of one small batch after another, with the user's own data and labels."""

_SAMPLES = 32  # of which the gradients are averaged before their absolute value is taken


@dataclass(frozen=True)
class Moments:
    """The mean and the mean square of each channel that a layer reads, over samples and positions; float64 [C]."""

    mean: Tensor
    square: Tensor

    @property
    def variance(self) -> Tensor:
        """The variance of each channel."""
        return (self.square - self.mean.square()).clamp_min(0)


class Evidence:
    """What is measured of a module on calibration batches, once for all of its weights.

    Attributes:
        module: the module, whose masks and modes are left as they are. uses: the linear layers of each weight.
        batches: the calibration batches. generator: of all that is drawn by chance.
    """

    def __init__(
        self,
        module: OnnxModule,
        batches: Iterable[Batch],
        generator: torch.Generator,
        *,
        likelihood: Likelihood = "auto",
        losses: Losses | None = None,
        start: Mapping[str, Tensor] | None = None,
        uses: Mapping[str, Sequence[Use]] | None = None,
    ) -> None:
        self.module = module
        self.generator = generator
        self._given = batches
        self._likelihood = likelihood
        self._losses = losses
        self._start = start
        self.uses = by_weight(linear_uses(module.model, set(module.initializers))) if uses is None else uses

    @cached_property
    def batches(self) -> list[tuple[Tensor, ...]]:
        """The calibration batches, on the module's device."""
        return prepared(self._given, self.module)

    def weight(self, name: str) -> Tensor:
        """Return a weight as the module computes with it: what is masked is zero."""
        weight = self.module.initializers[name].detach()
        mask = self.module.masks.get(name)
        return weight if mask is None else weight * mask

    @cached_property
    def trained(self) -> bool:
        """Whether any weight differs from its value at the start."""
        return any(not torch.equal(self.weight(name), self.start(name)) for name in self.uses)

    def start(self, name: str) -> Tensor:
        """Return a weight's value at the start: as given, else that of the model that the module was made from."""
        weight = self.module.initializers[name]
        if self._start is not None and name in self._start:
            start = self._start[name].detach().to(weight)
            if start.shape != weight.shape:
                raise UsageError(
                    f"the start of {name} has the shape {list(start.shape)}, the weight {list(weight.shape)}; "
                    "give the values that this network was trained from"
                )
        else:
            start = torch.as_tensor(self.module.stored(name).astype("float64")).to(weight)
        mask = self.module.masks.get(name)
        return start if mask is None else start * mask

    @cached_property
    def moments(self) -> Mapping[tuple[str, int], Moments]:
        """The moments of what each linear layer reads, by the tensor and the axis of its channels."""
        uses = {use.key: use for found in self.uses.values() for use in found}
        known = {*self.module.input_names, *self.module.tensor_names}
        measured = {key: use for key, use in uses.items() if use.rows is None and key[0] in known}
        sums: dict[tuple[str, int], Tensor] = {}
        counts: dict[tuple[str, int], int] = defaultdict(int)
        names = sorted({name for name, _ in measured})
        with measuring(self.module), torch.no_grad():
            for batch in self.batches if measured else ():
                values = self._values(batch, names)
                for key, use in measured.items():
                    total, squares, count = _sums(values[key[0]], use)
                    sums[key] = (
                        sums[key] + torch.stack([total, squares]) if key in sums else torch.stack([total, squares])
                    )
                    counts[key] += count
        found = {key: Moments(total[0] / counts[key], total[1] / counts[key]) for key, total in sums.items()}
        return found | {key: _of_rows(use, self.module) for key, use in uses.items() if key not in measured}

    def _values(self, batch: tuple[Tensor, ...], names: Sequence[str]) -> dict[str, Tensor]:
        given = dict(zip(self.module.input_names, batch, strict=True))
        _, values = self.module.run(batch, [name for name in names if name not in given])
        return {**given, **values}

    @cached_property
    def gradients(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """For each weight the mean over small batches of its gradient, and of the gradient's absolute value."""
        weights = {name: self.module.initializers[name] for name in self.uses}
        sums = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in weights.items()}
        count = 0
        with measuring(self.module), torch.enable_grad(), _trainable(weights.values()):
            for loss in self._sampled() if self._losses is None else self._losses(self.module):
                found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for (total, absolute), gradient in zip(sums.values(), found, strict=True):
                    if gradient is not None:
                        total += gradient
                        absolute += gradient.abs()
                count += 1
        if not count:
            raise UsageError("the losses given for the criterion are none; yield that of at least one batch")
        return {name: (total / count, absolute / count) for name, (total, absolute) in sums.items()}

    def _sampled(self) -> Iterator[Tensor]:
        likelihood: Likelihood | None = None
        for batch in small_batches(self.batches, self.module, _SAMPLES):
            outputs = first_output(self.module(*batch))
            likelihood = likelihood or resolved(self._likelihood, outputs)
            yield sampled_loss(outputs, likelihood, self.generator)


class CriterionContext:
    """What a criterion may ask about one weight. Every tensor has the weight's shape and device.

    Attributes:
        name: the weight's initializer. generator: on the CPU, for all that is drawn by chance.
    """

    def __init__(self, name: str, evidence: Evidence) -> None:
        self.name = name
        self.generator = evidence.generator
        self._evidence = evidence

    @property
    def gradient(self) -> Tensor:
        """The mean gradient of the loss; of the user's loss if there is one, else with labels that the model draws."""
        return self._evidence.gradients[self.name][0]

    @property
    def absolute_gradient(self) -> Tensor:
        """The mean over small batches of the absolute value of their gradients."""
        return self._evidence.gradients[self.name][1]

    @property
    def input_norm(self) -> Tensor:
        """The root mean square of the activation that each element multiplies; over several layers, of their sum."""
        return self._spread(lambda moments: moments.square).sqrt()

    @property
    def input_variance(self) -> Tensor:
        """The variance of the activation that each element multiplies; over several layers, their sum."""
        return self._spread(lambda moments: moments.variance)

    @property
    def input_mean(self) -> Tensor:
        """The mean of the activation that each element multiplies; over several layers, their sum."""
        return self._spread(lambda moments: moments.mean)

    @property
    def start(self) -> Tensor:
        """The value at the start of the training phase."""
        return self._evidence.start(self.name)

    @property
    def trained(self) -> bool:
        """Whether any weight of the module differs from its value at the start."""
        return self._evidence.trained

    def _spread(self, part: Callable[[Moments], Tensor]) -> Tensor:
        weight = self._evidence.module.initializers[self.name]
        total = torch.zeros_like(weight, requires_grad=False)
        for use in self._evidence.uses[self.name]:
            total += spread(part(self._evidence.moments[use.key]), use).to(total)
        return total


def spread(channels: Tensor, use: Use) -> Tensor:
    """Return for each stored element what belongs to the input channel that it multiplies, 0 for unread ones."""
    places = torch.from_numpy(use.read).to(channels.device)
    return torch.where(places < 0, torch.zeros((), dtype=channels.dtype, device=channels.device), channels[places])


def _sums(value: Tensor, use: Use) -> tuple[Tensor, Tensor, int]:
    """Return the sum and the sum of squares of each channel in float64, and over how many values.

    A table reads a one for the row that is looked up and zeros for all others.
    """
    if use.table:
        counts = torch.bincount(value.reshape(-1).long() % use.channels, minlength=use.channels).double()
        return counts, counts, value.numel()
    channels = value.detach().movedim(use.linear.data_axis, -1).flatten(0, -2).double()
    if channels.shape[-1] == 1:
        channels = channels.expand(-1, use.channels)
    return channels.sum(0), channels.square().sum(0), channels.shape[0]


def _of_rows(use: Use, module: nn.Module) -> Moments:
    """Return the moments of rows that are looked up whatever the input is, of each once where only the run knows."""
    rows = torch.arange(use.channels) if use.rows is None else torch.from_numpy(use.rows)
    total, squares, count = _sums(rows.to(device_of(module)), use)
    return Moments(total / count, squares / count)


@contextmanager
def _trainable(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let gradients be taken of weights that a user has frozen for a while."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
