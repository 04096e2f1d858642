"""Release: exact zeros inside the tensors become trainable again, as noise of a measured effect on the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.calibration.batches import Batch, measuring, prepared
from onnxsqueeze.units.weight_uses import linear_uses

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule

_TOLERANCE = 0.02  # of the change that was asked for
_FIRST_FACTOR = 0.1
_WIDEST = 1e6  # the factor beyond which outputs are taken not to depend on the zeros
_MOST_EVALUATIONS = 60
_IN_PROPORTION = 6  # evaluations; after these, a change that is not proportional to the noise is found by halves


@dataclass(frozen=True)
class ReleaseReport:
    """What a release did.

    Attributes:
        zeros: how many exact zeros became noise, by initializer; tensors without any are left out.
        factor: the noise's standard deviation relative to that of each tensor's own weights; 0 if nothing was released.
        change: the relative change of the outputs that was reached. wanted: that which was asked for.
        evaluations: how often the calibration batches were run.
        note: why nothing was released, "" if something was.
    """

    zeros: Mapping[str, int]
    factor: float
    change: float
    wanted: float
    evaluations: int
    note: str = ""

    @property
    def total(self) -> int:
        """The number of zeros that became noise."""
        return sum(self.zeros.values())


def release(
    module: OnnxModule,
    change: float = 0.01,
    batches: Iterable[Batch] = (),
    generator: torch.Generator | None = None,
    *,
    tables: bool = False,
    least: int = 1,
) -> ReleaseReport:
    """Make all exact zeros of linear weights trainable again, as Gaussian noise, and remove all masks.

    The noise of a tensor has the spread of the tensor's own non-zero weights times one factor for all tensors, found
    by measuring, so that the outputs on the batches change by ``change``: the norm of the difference by the norm of
    what they were. The module's modes are kept; BatchNorm statistics do not move.

    Args:
        module: what to release in. change: above 0; reached within 2 %.
        batches: calibration batches, of inputs. generator: of the noise, on the CPU; seeded with 0 by default.
        tables: whether zeros in embedding tables are released, too.
        least: how many zeros there must be; fewer stay, and nothing is measured for them.

    Raises:
        UsageError: when the change is not above 0, or there is no batch.
    """
    if not 0 < change < float("inf"):
        raise UsageError(f"a release needs a relative change of the outputs above 0, not {change}")
    generator = generator or torch.Generator().manual_seed(0)
    found = _zeros(module, tables)
    if not found:
        return ReleaseReport({}, 0.0, 0.0, change, 0, "there are no exact zeros")
    count = sum(int(zero.sum()) for _, zero, _ in found)
    if count < least:
        return ReleaseReport({}, 0.0, 0.0, change, 0, f"exact zeros: {count}, which are too few to be worth it")
    noises = _drawn(module, found, generator)
    inputs = prepared(batches, module)
    _burn_masks(module)
    with measuring(module), torch.no_grad():
        effect = _Effect(module, inputs, noises)
        factor = _calibrated(effect, change)
        if not factor:
            effect.write(0.0)
            return ReleaseReport({}, 0.0, 0.0, change, effect.evaluations, effect.refusal(change))
    zeros = {name: int(zero.sum()) for name, zero, _ in noises}
    return ReleaseReport(zeros, factor, effect.reached, change, effect.evaluations)


def _burn_masks(module: OnnxModule) -> None:
    """Write the masks' zeros into the weights, since what lies under a mask is anything."""
    with torch.no_grad():
        for name, mask in module.masks.items():
            module.initializers[name].mul_(mask)
    module.set_masks({})


Noise = tuple[str, Tensor, Tensor]
"""A tensor, where it is zero, and what it gets there at factor 1."""


Zeros = tuple[str, Tensor, int]
"""A tensor, where it is zero, and how many inputs each output of its layer sums."""


def _zeros(module: OnnxModule, tables: bool) -> Sequence[Zeros]:
    """Return the weights that have zeros, in the file's order."""
    uses = linear_uses(module.model, set(module.initializers))
    inputs = {use.weight: use.linear.matrix[0, 0].size for use in uses}
    wanted = {use.weight for use in uses} - (set() if tables else {use.weight for use in uses if use.table})
    masks = module.masks
    found = []
    for name, parameter in module.initializers.items():
        weight = parameter.detach()
        zero = weight == 0 if name not in masks else (weight == 0) | ~masks[name]
        if name in wanted and bool(zero.any()):
            found.append((name, zero, inputs[name]))
    return found


def _drawn(module: OnnxModule, zeros: Sequence[Zeros], generator: torch.Generator) -> Sequence[Noise]:
    """Draw the noise of each tensor in order, on the CPU, so that a seed gives the same on every device."""
    found = []
    for name, zero, inputs in zeros:
        weight = module.initializers[name].detach()
        rest = weight[~zero].double()
        spread = float(rest.square().mean().sqrt()) if rest.numel() else inputs**-0.5
        noise = torch.randn(weight.shape, generator=generator) * spread
        found.append((name, zero, noise.to(weight) * zero))
    return found


class _Effect:
    """Measures how far noise of a factor moves the outputs on the calibration batches."""

    def __init__(self, module: OnnxModule, batches: Sequence[tuple[Tensor, ...]], noises: Sequence[Noise]) -> None:
        self._module = module
        self._batches = batches
        self._noises = noises
        self.before = [self._outputs(batch) for batch in batches]
        self.norm = sum(float(output.square().sum()) for output in self.before) ** 0.5
        self.evaluations, self.reached = 1, 0.0

    def write(self, factor: float) -> None:
        """Write noise of a factor where the zeros were."""
        for name, zero, noise in self._noises:
            parameter = self._module.initializers[name]
            parameter.copy_(torch.where(zero, factor * noise, parameter))

    def at(self, factor: float) -> float:
        """Write noise of a factor and return the relative change of the outputs, infinite if they are not finite."""
        self.write(factor)
        self.evaluations += 1
        moved = 0.0
        for batch, before in zip(self._batches, self.before, strict=True):
            moved += float((self._outputs(batch) - before).square().sum())
        change = moved**0.5 / self.norm if self.norm else float("inf")
        self.reached = change if change == change else float("inf")
        return self.reached

    def refusal(self, change: float) -> str:
        """Why no factor was found."""
        if not 0 < self.norm < float("inf"):
            return "the outputs on the calibration batches are all zero or not finite, so no relative change is defined"
        return f"no noise in place of the zeros changes the outputs by {change:.3g}; they stay"

    def _outputs(self, batch: tuple[Tensor, ...]) -> Tensor:
        outputs = self._module(*batch)
        values = (outputs,) if isinstance(outputs, Tensor) else outputs
        return torch.cat([value.double().flatten() for value in values if value.is_floating_point()])


def _calibrated(effect: _Effect, change: float) -> float:
    """Return the factor at which the outputs change as asked, 0 if there is none."""
    if not 0 < effect.norm < float("inf"):
        return 0.0
    return _bisected(effect.at, change, _FIRST_FACTOR)


def _bisected(measure: Callable[[float], float], wanted: float, factor: float) -> float:
    """Find the factor by which a change is the one wanted, to which small noise is proportional.

    Where it is not, factors ten apart bracket it, and the bracket is halved on a logarithmic scale.
    """
    low, high = 0.0, float("inf")
    for evaluation in range(_MOST_EVALUATIONS):
        reached = measure(factor)
        if abs(reached - wanted) <= _TOLERANCE / 2 * wanted:
            return factor
        low, high = (factor, high) if reached < wanted else (low, factor)
        if low > _WIDEST or high < 1 / _WIDEST**2:
            return 0.0
        guess = factor * wanted / reached if reached else 0.0
        if evaluation < _IN_PROPORTION and low < guess < high:
            factor = guess
        else:
            factor = low * 10 if high == float("inf") else high / 10 if low == 0 else (low * high) ** 0.5
    return 0.0
