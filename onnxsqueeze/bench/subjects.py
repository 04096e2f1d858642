"""The models to measure, and what they run on: one set of inputs for all of them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ValueInfoProto

from onnxsqueeze.bench.settings import Settings
from onnxsqueeze.errors import DeploymentError, UsageError
from onnxsqueeze.model.files import files_of_model
from onnxsqueeze.pipeline.minimize import inspect
from onnxsqueeze.verification.cases import CaseFinder, Request
from onnxsqueeze.verification.dimension_sizes import Role, SizePlan, Sizes, input_type
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.randomness import random_operators
from onnxsqueeze.verification.sessions import RefusedError, Session, Values

_CHUNK = 2**20


@dataclass(frozen=True)
class Subject:
    """One model.

    Attributes:
        name: the path, as it was given.
        path: the file.
        weights: weight elements.
        macs: multiply-accumulates of the layers with stored weights, for one sample; None where there are none.
        bytes: of the file and its external data.
        gzip_bytes: the same, compressed.
    """

    name: str
    path: Path
    weights: int
    macs: int | None
    bytes: int
    gzip_bytes: int


@dataclass(frozen=True)
class Subjects:
    """All models and what they run on.

    Attributes:
        models: in the order in which they were given.
        sizes: of the first model's dynamic dimensions, by name.
        inputs: by name.
        expected: what the first model answers in onnxruntime without graph optimizations; None where it draws random
            numbers, so that nothing can be compared.
        float_types: the floating-point types (TensorProto.DataType) that the first model uses.
    """

    models: tuple[Subject, ...]
    sizes: Sizes
    inputs: Values
    expected: Values | None
    float_types: frozenset[int]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input that is an array."""
        return {name: value.shape for name, value in self.inputs.items() if hasattr(value, "shape")}


def prepare(paths: Sequence[str | os.PathLike[str]], settings: Settings) -> Subjects:
    """Read the models and find inputs for all of them.

    Raises:
        InvalidModelError: when a model cannot be read or is not valid.
        UsageError: when a size is missing or does not fit, or the models do not take the same inputs.
        DeploymentError: when onnxruntime, which everything is compared with, does not take the first model.
    """
    sources = [Source(path, check=True) for path in paths]
    first = sources[0]
    sizes = _sizes(first, settings)
    try:
        session = Session(first, optimized=False)
    except RefusedError as error:
        raise DeploymentError(f"{paths[0]}: onnxruntime, with which all is compared, refuses it: {error}") from None
    cases = CaseFinder(first, session, Request(samples=1, dims=sizes)).find().cases
    case = next(case for case in cases if not case.overriding)
    drawn = random_operators(first.skeleton)
    found = Subjects((), sizes, case.feeds, None if drawn else case.expected, frozenset(first.float_types))
    models = tuple(_subject(path, source, first, found.shapes) for path, source in zip(paths, sources, strict=True))
    return Subjects(models, sizes, found.inputs, found.expected, found.float_types)


def total_bytes(files: Iterable[Path]) -> tuple[int, int]:
    """Return the bytes of files, as they are and compressed as gzip does."""
    size, packed = 0, 0
    for path in files:
        compressor = zlib.compressobj(wbits=31)  # 16 for the format of gzip, and 15 for its window
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                packed += len(compressor.compress(chunk))
        packed += len(compressor.flush())
    return size, packed


def _sizes(source: Source, settings: Settings) -> Sizes:
    """Return a size for each dynamic dimension: a latency says nothing at a size that nobody has chosen."""
    plan = SizePlan.of(source.inputs, settings.dims, {})
    batches = [name for name, role in plan.roles.items() if role is Role.BATCH]
    if missing := [name for name in plan.roles if name not in batches]:
        name = missing[0]
        raise UsageError(f"the model has the dynamic dimension '{name}'; say which to measure with --dim {name}=SIZE")
    if settings.batch is not None and not batches:
        raise UsageError(f"--batch {settings.batch}: the model has no dynamic batch dimension that --dim leaves open")
    return {**plan.fixed, **dict.fromkeys(batches, settings.batch or 1)}


def _subject(
    path: str | os.PathLike[str], source: Source, first: Source, shapes: Mapping[str, tuple[int, ...]]
) -> Subject:
    ours, theirs = _signature(source.inputs), _signature(first.inputs)
    if ours != theirs:
        raise UsageError(f"{path} takes other inputs than the first model; only models that take the same are compared")
    try:
        sizes = SizePlan.of(source.inputs, {}, shapes).fixed
    except UsageError as error:
        raise UsageError(f"{path} does not take the inputs of the first model: {error}") from None
    batches = {name for name, role in SizePlan.of(source.inputs, {}, {}).roles.items() if role is Role.BATCH}
    dims = {name: size for name, size in sizes.items() if name not in batches}
    file = Path(path).resolve()
    report = inspect(file, round_to=1, dims=dims)
    size, packed = total_bytes(file.parent / entry.path for entry in files_of_model(file))
    return Subject(str(path), file, report.weights_before, report.macs_before or None, size, packed)


def _signature(inputs: Sequence[ValueInfoProto]) -> list[tuple[Any, ...]]:
    kinds = [input_type(value).tensor_type for value in inputs]
    return [
        (value.name, kind.elem_type, len(kind.shape.dim), value.type.WhichOneof("value"))
        for value, kind in zip(inputs, kinds, strict=True)
    ]
