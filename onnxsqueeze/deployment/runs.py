"""What a source and what is written from it run on: drawn inputs or the user's samples, and labels for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.errors import UsageError
from onnxsqueeze.verification.cases import CaseFinder, Request
from onnxsqueeze.verification.dimension_sizes import Role, SizePlan, Sizes
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.samples import read_arrays, read_samples
from onnxsqueeze.verification.sessions import RefusedError, Session, Values

Array = npt.NDArray[Any]

_LABELS = "labels"
_BATCH = 32  # samples that are run at a time where the model takes any number


@dataclass(frozen=True)
class Runs:
    """Inputs, and what the source makes of them in onnxruntime without graph optimizations.

    Attributes:
        described: what the inputs are, in words.
        feeds: the inputs by name, one entry for each run.
        expected: the outputs by name, one entry for each run.
        labels: the classes that belong to each run; None where none were given.
    """

    described: str
    feeds: list[Values]
    expected: list[Values]
    labels: list[Array] | None = None


def drawn_runs(source: Source, session: Session, request: Request) -> Runs:
    """Return runs on inputs drawn at random.

    Raises:
        UsageError: when the request does not fit the model, or the model accepts no inputs that were tried.
    """
    cases = [case for case in CaseFinder(source, session, request).find().cases if not case.overriding]
    return Runs("random inputs", [case.feeds for case in cases], [case.expected for case in cases])


def sample_runs(path: Path, source: Source, session: Session, sizes: Sizes) -> Runs:
    """Return runs on an npz file: an array for each input by name and, where accuracies are wanted, ``labels``.

    Many samples along a dynamic batch axis are split, so that they need not be in memory with all that is computed.

    Args:
        path: the file.
        source: the model.
        session: the model in onnxruntime.
        sizes: of dynamic dimensions by name, where the runtime takes one size only: it decides how samples are split.

    Raises:
        UsageError: when the file cannot be read or does not fit the model, or the model refuses a sample.
    """
    arrays = read_arrays(path, source, _LABELS)
    inputs = {value.name for value in (*source.inputs, *source.overridable)}
    labels = None if _LABELS in inputs else arrays.pop(_LABELS, None)
    plan = SizePlan.of(source.inputs, {}, {})
    feeds = read_samples(arrays, source)
    one_by_one = any(arrays[name].ndim > len(dims) for name, dims in plan.dims.items())
    if not one_by_one:
        feeds = [part for feed in feeds for part in _batches(feed, plan, sizes)]
    if not feeds:
        raise UsageError(f"{path} holds no samples: its arrays are empty")
    for feed in feeds if sizes else ():
        SizePlan.of(source.inputs, sizes, {name: np.shape(feed[name]) for name in plan.dims})  # refuses what differs
    lengths = [1 if one_by_one else _length(feed) for feed in feeds]
    expected = [_answer(session, feed, path) for feed in feeds]
    described = f"{sum(lengths)} samples of {path.name}"
    if labels is None:
        return Runs(described, feeds, expected)
    if labels.dtype.kind not in "iu" or not labels.ndim or len(labels) != sum(lengths):
        given = f"{labels.dtype}{list(labels.shape)}"
        raise UsageError(f"{path}: the labels are {given}; give the number of the class for each of {sum(lengths)}")
    return Runs(described, feeds, expected, list(labels) if one_by_one else np.split(labels, np.cumsum(lengths)[:-1]))


def fixed_sizes(source: Source, dims: Mapping[str, int], shapes: Mapping[str, Sequence[int]], runtime: str) -> Sizes:
    """Return a size for each dynamic dimension, for a runtime that takes one shape only; a batch is 1 unless given.

    Raises:
        UsageError: when a dimension other than the batch has no size, or the user's sizes do not fit.
    """
    plan = SizePlan.of(source.inputs, dims, shapes)
    for name, role in plan.roles.items():
        if role is not Role.BATCH:
            raise UsageError(f"{runtime} takes one size of each dimension; say which with --dim {name}=SIZE")
    return {**plan.fixed, **dict.fromkeys(plan.roles, 1)}


def _batches(feed: Values, plan: SizePlan, sizes: Sizes) -> Iterator[Values]:
    """Split a feed along the batch axis, if all inputs begin with one and the same dynamic one."""
    first = {str(dims[0]) if dims else "" for dims in plan.dims.values()}
    name = next(iter(first), "")
    if len(first) != 1 or plan.roles.get(name) is not Role.BATCH:
        yield feed
        return
    step, length = sizes.get(name, _BATCH), max(len(feed[key]) for key in plan.dims)
    if name in sizes and length % step:
        raise UsageError(f"{length} samples cannot be split into batches of {step}; give a multiple")
    for start in range(0, length, step):
        part = slice(start, start + step)
        yield {key: value[part] if key in plan.dims else value for key, value in feed.items()}


def _length(feed: Values) -> int:
    shapes = [np.shape(array) for array in feed.values()]
    return shapes[0][0] if shapes and shapes[0] else 1


def _answer(session: Session, feed: Values, path: Path) -> Values:
    try:
        return session.run(feed)
    except RefusedError as error:
        raise UsageError(f"{path}: the model refuses a sample: {error}") from None
