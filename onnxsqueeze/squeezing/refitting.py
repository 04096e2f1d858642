"""Layers of a network that has lost weights, repaired for what they read by now towards what they gave before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.gathering import Problems, gathered, with_arrays
from onnxsqueeze.squeezing.least_squares import Bools, repaired
from onnxsqueeze.squeezing.reader import Array, Arrays, Reader
from onnxsqueeze.squeezing.samples import Part


def refitted(reader: Reader, problems: Problems, original: Arrays, now: Arrays) -> dict[str, Array]:
    """Return all weights with those of one layer repaired; its zeros stay, its bias becomes what errs least.

    Args:
        reader: the layer. problems: what it reads, see `gathered`. original, now: weights before and after the loss.
    """
    weight, bias = reader.weight(original), reader.bias(original)
    stays = reader.weight(now) != 0
    for group in range(reader.groups):
        found = repaired(problems.fitted[group], problems.checked[group], stays[group])
        weight[group] = np.where(stays[group], weight[group], 0.0) if found is None else found.weight
        if bias is not None and found is not None and found.bias is not None:
            bias[group] = found.bias
    return {**now, **reader.written(now, weight, bias)}


def front_to_back(
    model: Model, readers: Sequence[Reader], masks: Mapping[str, Bools], part: Part, seed: int
) -> dict[str, Array]:
    """Repair the layers of a model under masks one after another; return the weights and biases that are new.

    Args:
        model: before the masks. readers: of it, in the order of the graph.
        masks: False where a stored weight is to be zero. part: samples. seed: of the places drawn of images.
    """
    original = {name: initializer.array for name, initializer in model.initializers.items()}
    arrays, new = masked(original, masks), dict[str, Array]()
    for reader in readers:
        if not new and np.array_equal(reader.weight(arrays), reader.weight(original)):
            continue  # nothing was lost so far
        problems = gathered(model, [reader], part, seed, with_arrays(model, arrays))[reader.name]
        found = refitted(reader, problems, original, arrays)
        new.update(masked({name: found[name] for name in found if found[name] is not arrays[name]}, masks))
        arrays.update(new)
    return new


def masked(arrays: Arrays, masks: Mapping[str, Bools]) -> dict[str, Array]:
    """Return weights with zeros where masks are False."""
    return {
        name: np.where(masks[name], array, np.zeros((), array.dtype)) if name in masks else array
        for name, array in arrays.items()
    }
