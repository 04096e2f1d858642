"""What each unit is worth: how much the distribution of the outputs moves when it goes.

The score is the diagonal of the Fisher information along the gates that would switch the units off (as in "Importance
Estimation for Neural Network Pruning", arXiv 1906.10771, with labels sampled from the model itself): with L the
negative logarithm of a sampled label's probability, the mean over samples of the square of the sum over positions of
a * dL/da, where a is what the contractions read that sum over the unit. No gates are needed for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onnxsqueeze.abstract.symbolic import Symbolic
from onnxsqueeze.training.calibration.batches import Batch, first_output, measuring, prepared, small_batches
from onnxsqueeze.training.calibration.likelihood import Likelihood, log_probabilities, resolved
from onnxsqueeze.units.class_uses import Reading
from onnxsqueeze.units.units import Floats, Units

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule

Classes = npt.NDArray[np.int64]
_AT_ONCE = 64  # samples


@dataclass(frozen=True)
class _Site:
    """Where a tensor's elements are summed by class: the axis of its samples, and what of it counts for heads."""

    tensor: str
    classes: Classes
    axis: int
    whole: bool


def unit_scores(
    module: OnnxModule,
    units: Units,
    batches: Iterable[Batch],
    *,
    likelihood: Likelihood = "auto",
    generator: torch.Generator | None = None,
) -> Floats:
    """Return for each unit about twice the KL divergence of the outputs that its removal causes; float64.

    It is measured with the module's masks and on its device, in evaluation mode; the module's own modes are restored.
    Units that nothing measurable reads get infinity.

    Args:
        module: made from the model of the units.
        units: see `units_of`.
        batches: inputs without labels; some hundred samples are enough.
        likelihood: what the first output means: "categorical" scores of classes, "probabilities" of them, or the mean
            of a "gaussian" of variance 1. "auto" tells by its shape and values.
        generator: draws the labels; on the CPU.

    Raises:
        UsageError: when there is no batch or the likelihood is not known.
    """
    generator = generator or torch.Generator().manual_seed(0)
    sites, measured = _sites(units, module.tensor_names + module.input_names)
    if not sites:  # nothing that is read could be told apart
        return np.full(len(units), np.inf)
    axes = input_axes(units, module.input_names)
    total = np.zeros(len(units))
    samples = 0
    with measuring(module):
        for inputs in small_batches(prepared(batches, module), module, _AT_ONCE, axes):
            count = max((value.shape[axis] for value, axis in zip(inputs, axes, strict=True) if value.dim()), default=1)
            gates = _gates(module, units, sites, inputs, count, likelihood, generator)
            total += gates.square().sum(0).cpu().numpy()
            samples += gates.shape[0]
    return np.where(measured, total / samples, np.inf)


def _gates(
    module: OnnxModule,
    units: Units,
    sites: Sequence[_Site],
    inputs: tuple[Tensor, ...],
    samples: int,
    likelihood: Likelihood,
    generator: torch.Generator,
) -> Tensor:
    """Return the derivative of each sample's loss by a factor on each unit, [samples, units], float64."""
    inputs = tuple(value.detach().clone().requires_grad_(value.is_floating_point()) for value in inputs)
    given = dict(zip(module.input_names, inputs, strict=True))
    names = list(dict.fromkeys(site.tensor for site in sites))
    with torch.enable_grad():
        outputs, found = module.run(inputs, [name for name in names if name not in given])
        tensors = {name: given[name] if name in given else found[name] for name in names}
        names = [name for name in names if tensors[name].requires_grad]
        loss = _loss(first_output(outputs), likelihood, generator)
        gradients = torch.autograd.grad(loss, [tensors[name] for name in names], allow_unused=True)
    products = {
        name: (tensors[name].detach() * gradient).double()
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is not None
    }
    device = loss.device
    by_class = torch.zeros(2, samples, units.classes, dtype=torch.float64, device=device)
    for site in sites:
        if site.tensor in products:
            _add(by_class[int(site.whole)], products[site.tensor], site)
    return _by_unit(by_class, units)


def _add(total: Tensor, product: Tensor, site: _Site) -> None:
    """Sum a tensor over positions, for each sample and class."""
    classes = np.moveaxis(site.classes, site.axis, 0)
    product = product.movedim(site.axis, 0)
    alike = [axis for axis, length in enumerate(classes.shape) if axis and length == 1]
    summed = product.sum(alike) if alike else product
    summed = summed.reshape(total.shape[0], product.shape[0] // total.shape[0], -1).sum(1)
    total.index_add_(1, torch.from_numpy(classes.ravel()).to(total.device), summed)


def _by_unit(by_class: Tensor, units: Units) -> Tensor:
    """Sum the classes of each unit; of a head only what a layer reads of it, since scores are summed over before."""
    unit, member = (torch.from_numpy(array).to(by_class.device) for array in units.members)
    heads = torch.from_numpy(units.of_kind("head")).to(by_class.device)[unit]
    entries = by_class[1][:, member] + torch.where(heads, 0.0, by_class[0][:, member])
    found = torch.zeros(by_class.shape[1], len(units), dtype=torch.float64, device=by_class.device)
    return found.index_add_(1, unit, entries)


def _loss(outputs: Tensor, likelihood: Likelihood, generator: torch.Generator) -> Tensor:
    """Return the negative logarithm of the probability of labels drawn from the outputs, summed over everything."""
    kind = resolved(likelihood, outputs)
    if kind == "gaussian":
        noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float32).to(outputs.device)
        return 0.5 * (outputs.float() - (outputs.detach().float() + noise)).square().sum()
    scores = log_probabilities(outputs, kind)
    scores = scores.reshape(-1, scores.shape[-1])
    drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(outputs.device)
    return -scores.gather(1, drawn).sum()


def _sites(units: Units, known: Iterable[str]) -> tuple[list[_Site], npt.NDArray[np.bool_]]:
    """Choose where to measure: where units are read, else where they are written first; and say what that covers."""
    known, batch = set(known), _batch_names(units)
    of_unit = np.bincount(units.members[1], minlength=units.classes) > 0
    measured = np.zeros(units.classes, dtype=bool)
    sites: list[_Site] = []
    seen: set[tuple[str, bytes]] = set()
    for reading in units.readings:
        key, axis = (reading.tensor, reading.classes.tobytes()), _sample_axis(units, reading, batch)
        if reading.tensor in known and key not in seen and of_unit[reading.classes].any() and axis is not None:
            seen.add(key)
            measured[reading.classes] = True
            sites.append(_Site(reading.tensor, reading.classes, axis, reading.whole))
    covered = units.per_unit(measured.astype(np.float64)) > 0
    for writing in units.writings:
        lacking, axis = np.isin(writing.classes, units.members[1][~covered[units.members[0]]]), None
        if writing.tensor in known and lacking.any():
            axis = _sample_axis(units, writing, batch)
        if axis is not None:
            measured[writing.classes[lacking]] = True
            sites.append(_Site(writing.tensor, writing.classes, axis, False))
            covered = units.per_unit(measured.astype(np.float64)) > 0
    return sites, covered


def _batch_names(units: Units) -> set[str]:
    """Return the names of the sizes that count samples: those of an output's first axis that an input has, too.

    Inputs need not begin with the batch: sequences may come as [steps, batch, features].
    """
    shapes, graph = units.analysis.context.shapes, units.analysis.graph
    of_inputs = _names(size for name in graph.inputs for size in shapes.get(name, ()))
    of_output = _names(shapes.get(graph.outputs[0], ())[:1])
    return of_inputs & of_output or _names(size for name in graph.inputs for size in shapes.get(name, ())[:1])


def _names(sizes: Iterable[object]) -> set[str]:
    return {name for size in sizes if isinstance(size, Symbolic) for name in size.names}


def input_axes(units: Units, names: Sequence[str]) -> tuple[int, ...]:
    """Return along which axis each input has its samples; the first where that is not known."""
    batch, shapes = _batch_names(units), units.analysis.context.shapes
    found = []
    for name in names:
        sizes = shapes.get(name, ())
        found.append(next((axis for axis, size in enumerate(sizes) if _names([size]) & batch), 0))
    return tuple(found)


def _sample_axis(units: Units, reading: Reading, batch: set[str]) -> int | None:
    """Return the axis along which a tensor has its samples: the first that grows with the batch, None if none does."""
    shape = units.analysis.context.shape(reading.tensor)
    found = [axis for axis, size in enumerate(shape) if isinstance(size, Symbolic) and batch & set(size.names)]
    if found:
        return found[0]
    return 0 if not batch or isinstance(shape[0], Symbolic) else None
