"""The user's samples: arrays of a file or a folder, or what a function yields; a third is held out.

Nothing is copied but the rows of one batch: arrays of a folder stay on the disk until they are read.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorShapeProto, ValueInfoProto, helper

from onnxsqueeze.errors import UsageError, one_line
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import dimension_name, fixed_size
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.samples import read_arrays

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Data = str | Path | Mapping[str, Any]

LEAST = 24
"""Fewer samples than this cannot say what a network may lose."""
MOST = 8192
"""As many are read by default for the choices, and at most half as many for the figures."""
BATCH = 64
_HELD_OUT = 3  # one in so many


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples.

    Attributes:
        arrays: by input, one row for each sample along the first axis. rows: which of them are these, ascending.
        whole: inputs that are the same for all samples. batch: how many rows are fed at once.
        single: inputs of which a row is fed as it stands, without an axis for the batch.
        labels: of these samples, if there are any.
        axes: along which axis an input is fed its samples, where that is not the first.
        fixed: whether exactly so many rows are fed at once; else fewer may be.
    """

    arrays: Mapping[str, Array]
    rows: npt.NDArray[np.int64]
    whole: Mapping[str, Array]
    batch: int
    single: bool = False
    labels: Array | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    fixed: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self) -> Iterator[Feeds]:
        """Yield what to feed, batch after batch.

        Raises:
            UsageError: where a number is NaN or infinite.
        """
        for start in range(0, len(self.rows), self.batch):
            rows = self.rows[start : start + self.batch]
            found = {name: np.ascontiguousarray(array[rows]) for name, array in self.arrays.items()}
            for name, array in found.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    where = int(rows[~np.isfinite(array.reshape(len(rows), -1)).all(axis=1)][0])
                    raise UsageError(f"--data: sample {where} of '{name}' holds NaN or infinity; leave it out")
            fed = {name: array[0] if self.single else self._turned(name, array) for name, array in found.items()}
            yield {**fed, **self.whole}

    def _turned(self, name: str, array: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(array, 0, self.axes.get(name, 0)))

    def sizes(self, inputs: Sequence[ValueInfoProto]) -> dict[str, int]:
        """Return the sizes of the model's dynamic dimensions in these samples, by name."""
        found: dict[str, int] = {}
        for value in inputs:
            shape: tuple[int, ...] = ()
            if value.name in self.whole:
                shape = self.whole[value.name].shape
            elif value.name in self.arrays:
                shape = self.arrays[value.name].shape
                shape = shape[1:] if self.single else _fed(shape, self.axes.get(value.name, 0))
            for axis, (dim, size) in enumerate(zip(_dims(value), shape, strict=False)):
                if fixed_size(dim) is None:
                    found[dimension_name(dim.dim_param) or f"{value.name}[{axis}]"] = int(size)
        return found

    def first(self, count: int) -> Part:
        """Return at most so many of these, spread evenly, in whole batches; one batch at least where it is fixed."""
        batch = self.batch if self.fixed else min(self.batch, count)
        count = max(batch, count - count % batch)
        if count >= len(self.rows):
            return self
        chosen = np.linspace(0, len(self.rows) - 1, count).astype(np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, rows=self.rows[chosen], labels=labels, batch=batch)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples: those from which choices are made, and those that only figures come from."""

    calibration: Part
    held_out: Part


def read(data: Data, model: Model, labels: str = "", most: int = MOST, seed: int = 0) -> Samples:
    """Read samples for a model.

    Args:
        data: an npz file, a folder of .npy files, or ``module:function``, which yields mappings; or a mapping. Each
            holds one array for each input by name, samples along the first axis.
        model: the model. labels: the name of an array of labels beside them, "" without.
        most: how many samples to use for choices. seed: of the third that is held out.

    Raises:
        UsageError: when they cannot be read, or do not fit the model.
    """
    arrays = _read(data, model, labels)
    given = arrays.pop(labels, None) if labels else None
    if labels and given is None:
        raise UsageError(f"--labels {labels}: --data holds no such array; it has {_listed(arrays)}")
    inputs = [value for value in model.skeleton.graph.input if value.name not in model.initializers]
    arrays = {name: array for name, array in arrays.items() if name != "labels" or name in {v.name for v in inputs}}
    _check_names(arrays, inputs)
    axes = _axes(inputs)
    rows, whole, batch, single = _layout({value.name: (value, arrays[value.name]) for value in inputs}, axes)
    axes = {} if single else axes
    count = len(next(iter(rows.values())))
    if given is not None and len(given) != count:
        raise UsageError(f"--labels {labels}: there are {len(given)} labels for {count} samples")
    fixed = batch is not None
    return _split(Part(rows, np.arange(count), whole, batch or BATCH, single, given, axes, fixed), most, seed)


def _read(data: Data, model: Model, labels: str) -> dict[str, Any]:
    if isinstance(data, Mapping):
        return {name: np.asarray(array) for name, array in data.items()}
    path = Path(data)
    if path.is_dir():
        return _of_folder(path)
    module, colon, function = str(data).rpartition(":")
    if colon and not path.exists() and module.replace(".", "").isidentifier() and function.isidentifier():
        return _of_function(str(data), module, function)
    if not path.exists():
        raise UsageError(f"--data {data}: there is no such file; give an npz, a folder of .npy, or module:function")
    return read_arrays(path, Source(model), "labels", *([labels] if labels else []))


def _of_folder(path: Path) -> dict[str, Any]:
    found = {}
    for file in sorted(path.glob("*.npy")):
        try:
            found[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"--data: {file} cannot be read: {one_line(error)}") from None
    if not found:
        raise UsageError(f"--data {path}: the folder holds no .npy files, one for each input of the model")
    return found


def _of_function(given: str, module: str, function: str) -> dict[str, Any]:
    """Call the user's own code; what it yields is joined along the first axis."""
    sys.path.insert(0, "")
    try:
        found = [
            {name: np.asarray(array) for name, array in dict(one).items()}
            for one in getattr(importlib.import_module(module), function)()
        ]
    except Exception as error:  # it may raise anything
        raise UsageError(f"--data {given}: {type(error).__name__}: {one_line(error)}") from None
    finally:
        sys.path.remove("")
    if not found:
        raise UsageError(f"--data {given}: the function yields nothing")
    names = set(found[0])
    if any(set(one) != names for one in found):
        raise UsageError(f"--data {given}: the function yields different names; the first time {_listed(found[0])}")
    try:
        return {name: np.concatenate([np.atleast_1d(one[name]) for one in found]) for name in found[0]}
    except ValueError:
        raise UsageError(f"--data {given}: the arrays have different shapes; pad or cut them to one shape") from None


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _check_names(arrays: Mapping[str, Any], inputs: Sequence[ValueInfoProto]) -> None:
    names = [value.name for value in inputs]
    if missing := [name for name in names if name not in arrays]:
        raise UsageError(f"--data lacks the input '{missing[0]}'; it has {_listed(arrays)}")
    if unknown := [name for name in arrays if name not in names]:
        raise UsageError(
            f"--data holds '{unknown[0]}', which is no input of the model; it has {_listed(names)} "
            "(name an array of labels with --labels)"
        )


def _axes(inputs: Sequence[ValueInfoProto]) -> dict[str, int]:
    """Return along which axis an input is fed its samples, where that is not the first.

    A state [layers, batch, units] names the size that others have first; samples of it are [samples, layers, units].
    """
    names = {value.name: [dimension_name(dim.dim_param) for dim in _dims(value)] for value in inputs}
    first = {own[0] for own in names.values() if own and own[0]}
    found = {}
    for value in inputs:
        own = names[value.name]
        axis = next((axis for axis, name in enumerate(own) if name in first), 0)
        if axis and fixed_size(_dims(value)[0]) is not None:
            found[value.name] = axis
    return found


def _dims(value: ValueInfoProto) -> Sequence[TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _fed(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape in which an array is fed whose samples are its first axis."""
    return (*shape[1 : axis + 1], shape[0], *shape[axis + 1 :])


def _layout(
    given: Mapping[str, tuple[ValueInfoProto, Any]], axes: Mapping[str, int]
) -> tuple[dict[str, Array], dict[str, Array], int | None, bool]:
    """Tell inputs with one row for each sample from those that all share; say how many rows must be fed at once."""
    sizes = {name: _sizes(value) for name, (value, _) in given.items()}
    typed = {name: _typed(value, array) for name, (value, array) in given.items()}
    single = all(array.ndim == len(sizes[name]) + 1 for name, array in typed.items())
    steps: set[int] = set()
    rows, whole = {}, {}
    for name, array in typed.items():
        wanted = sizes[name]
        axis = 0 if single else axes.get(name, 0)
        shape = array.shape[1:] if single else array.shape
        if axis and len(shape) == len(wanted):
            wanted = (wanted[axis], *wanted[:axis], *wanted[axis + 1 :])  # samples first, as in the data
        _check_shape(name, shape, wanted, first=single)
        if not single and (not wanted or (None not in wanted and array.shape == wanted and len(typed) > 1)):
            whole[name] = array
            continue
        rows[name] = array
        if not single and wanted and wanted[0] is not None:
            steps.add(wanted[0])
    counts = {len(array) for array in rows.values()}
    if len(counts) > 1:
        lengths = ", ".join(f"'{name}' {len(array)}" for name, array in rows.items())
        raise UsageError(f"--data holds arrays of different lengths: {lengths}")
    if not rows:
        raise UsageError("--data holds one sample; give an array of many for each input, along the first axis")
    if len(steps) > 1:
        raise UsageError("--data cannot be fed: the model fixes different sizes of the first axis of its inputs")
    return rows, whole, 1 if single else next(iter(steps), None), single


def _sizes(value: ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(map(fixed_size, _dims(value)))


def _typed(value: ValueInfoProto, array: Any) -> Array:
    """Return an array of the dtype of its input; a mapped one is read only then."""
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    if array.dtype == dtype:
        return np.asanyarray(array)
    if dtype.hasobject or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise UsageError(f"--data: '{value.name}' holds {array.dtype}, but the model wants {dtype}")
    return np.asarray(array.astype(dtype))


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int | None, ...], first: bool) -> None:
    fits = len(shape) == len(wanted) and all(
        size is None or size == length or (axis == 0 and not first and length % size == 0)
        for axis, (size, length) in enumerate(zip(wanted, shape, strict=True))
    )
    if not fits:
        sizes = ", ".join("?" if size is None else str(size) for size in wanted)
        raise UsageError(f"--data: '{name}' has the shape {list(shape)}, but the model wants [{sizes}]")


def _split(everything: Part, most: int, seed: int) -> Samples:
    """Hold a third out, in whole batches of a size that the model fixes."""
    batch = everything.batch if everything.fixed else 1
    blocks = len(everything) // batch
    least = max(LEAST, _HELD_OUT * batch)
    if len(everything) < least:
        fixed = f", as the model fixes batches of {batch}" if least > LEAST else ""
        raise UsageError(f"--data holds {len(everything)} samples; give at least {least}{fixed}, better some thousands")
    order = np.random.default_rng(seed).permutation(blocks)
    held = max(1, blocks // _HELD_OUT)
    parts = []
    for chosen, limit in ((order[held:], most), (order[:held], max(1, most // 2))):
        numbers = np.sort(chosen[: max(1, limit // batch)])
        rows = (numbers[:, None] * batch + np.arange(batch)).ravel()
        labels = None if everything.labels is None else np.asarray(everything.labels)[rows]
        parts.append(replace(everything, rows=rows, labels=labels))
    return Samples(*parts)
