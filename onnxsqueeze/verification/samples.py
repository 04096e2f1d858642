"""The user's own samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ValueInfoProto, helper

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.protobuf import fixed_size
from onnxsqueeze.verification.archive import read_archive
from onnxsqueeze.verification.dimension_sizes import input_type
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import Values

Array = npt.NDArray[Any]
Samples = str | os.PathLike[str] | Mapping[str, Any]


def read_samples(given: Samples, source: Source) -> list[Values]:
    """Return the user's samples as feeds.

    Each array is fed as it is where it has its input's shape. Where all have one axis more in front, or where the first
    axis is a multiple of a batch size that the model fixes, they are fed one slice after another.

    Args:
        given: the path of an npz file, or arrays by input name.
        source: the original model.

    Raises:
        UsageError: when the file cannot be read, or does not fit the model's inputs.
    """
    arrays = dict(given) if isinstance(given, Mapping) else read_arrays(Path(given), source)
    known = {value.name: value for value in (*source.inputs, *source.overridable)}
    if unknown := sorted(set(arrays) - set(known)):
        raise UsageError(f"the samples name '{unknown[0]}', which is no input of the model; it has {_listed(known)}")
    if missing := [value.name for value in source.inputs if value.name not in arrays]:
        raise UsageError(f"the samples lack the input '{missing[0]}'; give an array for each of {_listed(known)}")
    typed = {name: _typed(known[name], array) for name, array in arrays.items()}
    tensors = {name: (known[name], array) for name, array in typed.items() if isinstance(array, np.ndarray)}
    step = _slice_length(tensors)
    return [typed] if step is None else list(_sliced(typed, tensors, step))


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


def read_arrays(path: Path, source: Source, *others: str) -> dict[str, Any]:
    """Return the arrays of an npz file by name: those of a model's inputs, and ``others``.

    Raises:
        UsageError: when it cannot be read, or holds more than that.
    """
    known = {value.name: value for value in (*source.inputs, *source.overridable)}
    return read_archive(path, {*known, *others}, f"is no input of the model; it has {_listed(known)}")


def _typed(value: ValueInfoProto, array: Any) -> Any:
    """Return an array in the dtype of its input; lists, for sequences, as they are."""
    if isinstance(array, (list, tuple)) or array is None:
        return array
    array = np.asarray(array)
    if value.type.WhichOneof("value") != "tensor_type":
        return array
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if dtype.hasobject:
        return array.astype(object)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise UsageError(f"the sample for input '{value.name}' is {array.dtype}, but the model takes {dtype}")
    return array.astype(dtype, copy=False)


def _slice_length(tensors: Mapping[str, tuple[ValueInfoProto, Array]]) -> int | None:
    """Return how many entries of the first axis to feed at a time: 0 for one without its axis, None for all."""
    declared = {name: input_type(value).tensor_type.shape.dim for name, (value, _) in tensors.items()}
    shapes = {name: array.shape for name, (_, array) in tensors.items()}
    lengths = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(lengths) != 1 or 0 in lengths:
        return None
    if all(len(shape) == len(declared[name]) + 1 for name, shape in shapes.items()):
        return 0
    batches = {fixed_size(dims[0]) or 0 if dims else 0 for dims in declared.values()}
    length, batch = lengths.pop(), batches.pop()
    return batch if not batches and batch and length > batch and length % batch == 0 else None


def _sliced(typed: Values, tensors: Mapping[str, Any], step: int) -> Iterator[Values]:
    length = len(typed[next(iter(tensors))])
    for start in range(0, length, step or 1):
        index = slice(start, start + step) if step else start
        yield {name: np.asarray(array[index]) if name in tensors else array for name, array in typed.items()}
