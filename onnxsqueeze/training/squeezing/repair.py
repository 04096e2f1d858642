"""The repair of `onnxsqueeze.squeeze` inside a training cycle: least squares on the calibration batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from onnxsqueeze.model.compensated_function import with_definition
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import fixed_size
from onnxsqueeze.squeezing.readers import readers_of
from onnxsqueeze.squeezing.refitting import front_to_back
from onnxsqueeze.squeezing.samples import BATCH, Part
from onnxsqueeze.training.units.scoring import input_axes
from onnxsqueeze.units.units import Units

if TYPE_CHECKING:
    from onnxsqueeze.training.module import OnnxModule

Feeds = Mapping[str, npt.NDArray[Any]]


def repair(module: OnnxModule, origin: Model, units: Units, feeds: Sequence[Feeds], generator: torch.Generator) -> int:
    """Repair the layers of a module for what its masks took away, in place; what is masked stays so.

    Args:
        module: with its masks. origin: its model before them. units: of that.
        feeds: calibration batches by input. generator: draws places in images; on the CPU.

    Returns:
        how many layers were changed.
    """
    masks = {name: mask.cpu().numpy() for name, mask in module.masks.items()}
    model, trained = with_definition(origin), module.initializers
    readers = readers_of(model, units, model.initializers.keys() - trained.keys())
    seed = int(torch.randint(2**31, (), generator=generator))
    new = front_to_back(model, readers, masks, _part(module, units, feeds), seed)
    with torch.no_grad():
        for name, array in new.items():
            trained[name].copy_(torch.from_numpy(array.astype(np.float64)).to(trained[name]))
    return sum(not reader.stored.isdisjoint(new) for reader in readers)


def _part(module: OnnxModule, units: Units, feeds: Sequence[Feeds]) -> Part:
    """Return the samples of the batches that are shaped as the first, as far as they fill what the model takes."""
    axes = dict(zip(module.input_names, input_axes(units, module.input_names), strict=True))
    like = [each for each in feeds if _shapes(each, axes) == _shapes(feeds[0], axes)]
    count = max((array.shape[axes[name]] for name, array in feeds[0].items() if array.ndim), default=1)
    apart = [name for name, array in feeds[0].items() if array.ndim and array.shape[axes[name]] == count]
    joined = {name: np.concatenate([np.moveaxis(each[name], axes[name], 0) for each in like]) for name in apart}
    dims = {value.name: value.type.tensor_type.shape.dim for value in module.model.skeleton.graph.input}
    fixed = [fixed_size(dims[name][axes[name]]) or 0 for name in apart]
    batch = max(fixed, default=0) or BATCH
    rows = min(map(len, joined.values()), default=0)
    whole = {name: array for name, array in feeds[0].items() if name not in apart}
    return Part(joined, np.arange(rows - rows % batch if max(fixed, default=0) else rows), whole, batch, axes=axes)


def _shapes(feeds: Feeds, axes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Return the shapes of inputs without the axis of the samples."""
    return [array.shape[: axes[name]] + array.shape[axes[name] + 1 :] for name, array in feeds.items()]
