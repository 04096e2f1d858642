"""Sparse initializers: dense while a model is worked on, and written in whichever form takes fewer bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from onnx import SparseTensorProto, TensorProto

from onnxsqueeze.errors import InvalidModelError, one_line
from onnxsqueeze.model.initializer import Initializer, from_tensor
from onnxsqueeze.model.model import Model, SparseInitializer


def with_dense(model: Model) -> Model:
    """Return a model that was just parsed with its sparse initializers among the others; itself if it has none.

    Raises:
        InvalidModelError: when one contradicts itself, has the name of another, or does not fit into memory.
    """
    found = list(model.skeleton.graph.sparse_initializer)
    if not found:
        return model
    initializers, sparse = dict(model.initializers), {}
    for tensor in found:
        copy = SparseTensorProto()
        copy.CopyFrom(tensor)
        dense = _dense(copy)
        if dense.name in initializers:
            raise InvalidModelError(f"two of its initializers are named '{dense.name}'; export the model again")
        initializers[dense.name] = dense
        sparse[dense.name] = SparseInitializer(copy, dense)
    model.skeleton.graph.ClearField("sparse_initializer")
    return replace(model, initializers=initializers, sparse=sparse)


def in_sparse_form(model: Model) -> tuple[list[Initializer], list[SparseTensorProto]]:
    """Return the initializers to be written as they are, and those that take fewer bytes in sparse form.

    Only what was sparse may be so again, and is to the byte where nothing changed it.
    """
    dense, sparse = [], []
    for name, initializer in model.initializers.items():
        form = _sparse(initializer, model.sparse[name]) if name in model.sparse else None
        if form is None:
            dense.append(initializer)
        else:
            sparse.append(form)
    return dense, sparse


def _dense(tensor: SparseTensorProto) -> Initializer:
    name, shape = tensor.values.name, tuple(tensor.dims)
    try:
        values, places = from_tensor(tensor.values), from_tensor(tensor.indices).array
        if not values.is_numeric or not name or min(shape, default=1) < 0:
            raise ValueError("its values are no numbers, it has no name, or a size is negative")
        if places.ndim == 2:
            inside = (places >= 0).all() and (places < np.array(shape)).all()
            places = np.ravel_multi_index(tuple(places.T), shape) if inside else np.array([-1])
        flat = np.zeros(math.prod(shape), values.dtype)
        if places.shape != values.array.shape or (places.size and not 0 <= places.min() <= places.max() < flat.size):
            raise ValueError("its indices do not fit its values and its shape")
        flat[places] = values.array
    except (ValueError, OverflowError, IndexError, MemoryError) as error:
        reason = one_line(error) or "it is too large for the memory"
        raise InvalidModelError(f"sparse initializer '{name}' cannot be read: {reason}; export it again") from None
    array = flat.reshape(shape)
    array.setflags(write=False)
    return Initializer(TensorProto(name=name, dims=shape, data_type=tensor.values.data_type), array)


def _sparse(initializer: Initializer, before: SparseInitializer) -> SparseTensorProto | None:
    """Return the sparse form of an initializer, None where the dense one takes no more bytes."""
    if initializer is before.dense:
        return before.proto
    if not initializer.is_numeric or initializer.size == 0:
        return None
    flat = np.ascontiguousarray(initializer.array).reshape(-1)
    bits = flat.view(np.uint8).reshape(flat.size, -1).any(axis=1)  # a zero may have a sign
    places = np.flatnonzero(bits).astype(np.int64)
    made = SparseTensorProto(dims=initializer.shape)
    for field, array in (("values", flat[places]), ("indices", places)):
        stored = from_tensor(getattr(before.proto, field))
        getattr(made, field).CopyFrom(stored.with_array(array).to_tensor())
    dense = initializer.varints
    size = initializer.nbytes if dense is None else len(dense)
    return made if made.ByteSize() < initializer.header.ByteSize() + size else None


def sparse_bytes(tensors: Iterable[SparseTensorProto]) -> int:
    """Return how many bytes sparse tensors take."""
    return sum(int(tensor.ByteSize()) for tensor in tensors)
