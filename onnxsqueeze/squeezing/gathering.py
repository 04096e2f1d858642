"""Moments of what layers read, in the network as it is now and in the original, over the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.least_squares import Floats, Moments, Problem
from onnxsqueeze.squeezing.reader import Arrays, Reader
from onnxsqueeze.squeezing.running import Runner
from onnxsqueeze.squeezing.samples import Part

Array = npt.NDArray[Any]
_LEAST_ROWS, _ROWS_PER_COLUMN = 24_000, 8
_LEAST_SAMPLES = 1024
_CHECKED = 4  # one batch in so many is not fitted
_AT_ONCE = 1 << 27  # elements of moments that are gathered in one run of the network


@dataclass(frozen=True, eq=False)
class Problems:
    """The matrices of one layer, on samples that are fitted and on others that are not."""

    fitted: tuple[Problem, ...]
    checked: tuple[Problem, ...]

    def joined(self) -> list[Problem]:
        """Return the problems over all samples."""
        pairs = zip(self.fitted, self.checked, strict=True)
        return [replace(one, moments=one.moments.plus(other.moments)) for one, other in pairs]


def with_arrays(model: Model, arrays: Arrays) -> Model:
    """Return a model with other values of its weights."""
    own = model.initializers
    changed = {name: own[name].with_array(array) for name, array in arrays.items() if array is not own[name].array}
    return replace(model, initializers={**own, **changed})


def gathered(
    model: Model, readers: Sequence[Reader], part: Part, seed: int, now: Model | None = None
) -> dict[str, Problems]:
    """Return the least-squares problems of layers, by their names.

    Memory stays bounded: layers whose moments would take too much are gathered in several runs.

    Args:
        model: the original. readers: of it. part: the samples. seed: of the places that are drawn of images.
        now: the network that has changed, None where it has not.
    """
    found: dict[str, Problems] = {}
    piece: list[Reader] = []
    size = 0
    for reader in readers:
        own = reader.groups * reader.columns**2 * (2 if now is None else 4)
        if piece and size + own > _AT_ONCE:
            found.update(_gathered(model, piece, part, seed, now))
            piece, size = [], 0
        piece.append(reader)
        size += own
    if piece:
        found.update(_gathered(model, piece, part, seed, now))
    return found


def _gathered(model: Model, readers: Sequence[Reader], part: Part, seed: int, now: Model | None) -> dict[str, Problems]:
    arrays = {name: initializer.array for name, initializer in model.initializers.items()}
    weights = {reader.name: reader.weight(arrays) for reader in readers}
    given = {value.name for value in model.skeleton.graph.input}  # what a layer reads of them is never another
    same = {each.name for each in readers if now is None or each.recurs or given.issuperset(each.tensors)}
    lookups: dict[str, Floats] = {}
    sums = {reader.name: _empty(reader, reader.name not in same) for reader in readers}
    tensors = list(dict.fromkeys(name for reader in readers for name in reader.tensors))
    part = part.first(_wanted_samples(readers, model, part))
    count = -(-len(part) // part.batch)
    before = Runner(model, tensors).run(part)
    after = Runner(now, tensors).run(part) if now is not None else None
    for number, found in enumerate(before):
        changed = next(after) if after is not None else None
        for place, reader in enumerate(readers):
            most = -(-_wanted_rows(reader) // count)
            state = [seed, place, number]
            rows = reader.rows(found, most, np.random.default_rng(state))
            if (own := reader.lookups(found)) is not None:
                lookups[reader.name] = lookups.get(reader.name, 0.0) + own
            other = rows
            if changed is not None and reader.name not in same:
                other = reader.rows(changed, most, np.random.default_rng(state))
            _add(sums[reader.name], rows, other, weights[reader.name], number, count)
    return {
        reader.name: _problems(reader, sums[reader.name], weights[reader.name], arrays, lookups.get(reader.name))
        for reader in readers
    }


def _wanted_rows(reader: Reader) -> int:
    return max(_LEAST_ROWS, _ROWS_PER_COLUMN * reader.columns)


def _wanted_samples(readers: Sequence[Reader], model: Model, part: Part) -> int:
    """Return how many samples give enough rows; layers that read images have many of each."""
    first = replace(part, rows=part.rows[: part.batch])
    found = next(iter(Runner(model, [name for reader in readers for name in reader.tensors]).run(first)))
    shapes = {name: array.shape for name, array in found.items()}
    wanted = _LEAST_SAMPLES
    for reader in readers:
        each = reader.places(shapes) / len(first)
        wanted = max(wanted, int(_wanted_rows(reader) / max(each, 1e-9)))
    return wanted


def _empty(reader: Reader, changed: bool) -> tuple[list[Moments], list[Moments]]:
    one, other = ([Moments.empty(reader.columns, changed) for _ in range(reader.groups)] for _ in range(2))
    return one, other


def _add(
    sums: tuple[list[Moments], list[Moments]],
    before: npt.NDArray[np.float64],
    now: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    number: int,
    count: int,
) -> None:
    """Add the rows of a batch, to those that are fitted or to the others; a few batches are divided."""
    changed = sums[0][0].cross is not None
    for group in range(len(weights)):
        whole = np.arange(now.shape[1])
        checks = np.full(len(whole), number % _CHECKED == _CHECKED - 1) if count >= _CHECKED else whole % _CHECKED == 0
        for target, rows in ((sums[0], ~checks), (sums[1], checks)):
            if rows.any():
                own = (before[group][rows], weights[group]) if changed else (None, None)
                target[group].add(now[group][rows], *own)


def _problems(
    reader: Reader,
    sums: tuple[list[Moments], list[Moments]],
    weights: npt.NDArray[np.float64],
    arrays: Arrays,
    lookups: Floats | None,
) -> Problems:
    bias = reader.bias(arrays)
    parts = [
        tuple(
            Problem(weights[group], None if bias is None else bias[group], moments.flush(), lookups)
            for group, moments in enumerate(found)
        )
        for found in sums
    ]
    return Problems(*parts)
