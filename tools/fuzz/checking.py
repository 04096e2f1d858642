"""What must be true of a minimized random graph, in each of the ways to write it."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

import onnxsqueeze as sq
from tests.end_to_end.random_networks.generator import random_network
from tests.end_to_end.random_networks.token_generator import random_token_network
from tests.support.planted.checks import draw, run, signature, size, weights
from tools.fuzz.codes import FORMS
from tools.fuzz.variations import VARIATIONS

Array = npt.NDArray[Any]
Feeds = list[dict[str, Array]]

NAMES = (*VARIATIONS, *FORMS)
"""All ways to write a graph; the first one is as it is."""
RUNNING = "running the original"
"""The step in which a runtime that dies says nothing about us."""
THE_SAME = ("reordered", "renamed")
"""Variations that are the same network in as many bytes, of which the same is left."""
_TOLERANCE = {np.dtype(np.float32): 2e-3, np.dtype(np.float16): 1e-1, np.dtype(np.float64): 1e-8}
"""Of the output's scale. Extreme constants leave some outputs far from the rest: what rounding does grows with them."""
_SAMPLES = 6
"""More inputs for networks of codes. A sum right between two codes is rounded either way, and what follows may differ
as much as codes do; a wrong constant shows in most inputs, such a tie in few."""
_CODES = (
    *(TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16),
    *(TensorProto.INT32, TensorProto.INT4, TensorProto.UINT4),
)


@dataclass(frozen=True)
class Verdict:
    """What became of one graph in one variation; ``failure`` is "" where all holds."""

    seed: int
    variation: str
    failure: str
    smaller: bool = False
    compared: bool = True


def graph_of(seed: int) -> tuple[ModelProto, Feeds]:
    """Return a random graph and inputs of two sizes."""
    if seed % 2:
        made = random_network(seed // 2)
        pairs = zip((1, 3), made.extents, strict=True)
        return made.model, [draw(made.model, batch, extent) for batch, extent in pairs]
    tokens = random_token_network(seed // 2)
    return tokens.model, list(tokens.feeds)


def written(seed: int, name: str) -> tuple[ModelProto | None, Feeds]:
    """Return a graph in one of the ways to write it, and inputs; None where the tools that write it fail."""
    model, feeds = graph_of(seed)
    random = np.random.default_rng([seed, NAMES.index(name)])
    if name not in FORMS:
        VARIATIONS[name](model, random)
        return model, [_of_their_types(model, feed) for feed in feeds]
    try:
        coded = FORMS[name](model, feeds, random)
    except Exception:
        return None, feeds
    return coded, [*feeds, *(_other(feeds[each % 2], random) for each in range(_SAMPLES))]


def _of_their_types(model: ModelProto, feed: dict[str, Array]) -> dict[str, Array]:
    types = {value.name: tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in model.graph.input}
    return {name: array.astype(types[name]) for name, array in feed.items()}


def _other(feed: dict[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """Return other inputs of the same shapes: new numbers, and the same words and masks in another order."""
    return {
        name: random.standard_normal(array.shape).astype(array.dtype)
        if array.dtype.kind == "f"
        else random.permuted(array)
        for name, array in feed.items()
    }


def judged(
    seed: int, names: Collection[str] = NAMES, tell: Callable[[str | Verdict], None] = lambda said: None
) -> list[Verdict]:
    """Check one graph in some variations, in the order of NAMES; ``tell`` is told each step and each verdict."""
    plain: ModelProto | None = None
    verdicts = []
    for name in (name for name in NAMES if name in names):
        try:
            verdict, result = _checked(seed, name, plain, tell)
        except Exception:
            verdict, result = Verdict(seed, name, traceback.format_exc(limit=-3)), None
        if name == NAMES[0]:
            plain = result
        verdicts.append(verdict)
        tell(verdict)
    return verdicts


def _checked(
    seed: int, name: str, plain: ModelProto | None, tell: Callable[[str], None]
) -> tuple[Verdict, ModelProto | None]:
    tell(RUNNING)
    model, feeds = written(seed, name)
    if model is None:
        return Verdict(seed, name, "", compared=False), None
    before = [_outputs(model, each) for each in feeds]
    if name in FORMS:
        before = [
            outputs if _steady(model, each, outputs) else None for each, outputs in zip(feeds, before, strict=True)
        ]
    compared = any(outputs is not None for outputs in before)
    tell("minimizing")
    try:
        result, given = _minimized(name, model)
    except sq.InvalidModelError:
        if compared:
            raise
        return Verdict(seed, name, "", compared=False), None  # no runtime takes it
    failure = _failure(name, model, result, plain, given)
    if not failure and (again := elements(sq.minimize(result, round_to=1, verify=False).model)) < elements(result):
        failure = f"a second run finds more: {again} of {elements(result)} elements"
    tell("running the result")
    if not failure and compared:
        failure = _difference(name, before, [_outputs(result, each) for each in feeds])
    return Verdict(seed, name, failure, elements(result) < elements(model), compared), result


def elements(model: ModelProto) -> int:
    """Return the number of stored weights, in numbers or codes."""
    return size(model) + sum(prod(each.dims) for each in model.graph.initializer if each.data_type in _CODES)


def _minimized(name: str, model: ModelProto) -> tuple[ModelProto, int]:
    """Minimize a model, for "external" as a file with its weights beside it; return its bytes as given, too."""
    if name != "external":
        return sq.minimize(model, round_to=1, verify=False).model, model.ByteSize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        copy = ModelProto.FromString(model.SerializeToString())  # what is saved loses its data
        onnx.save(copy, path, save_as_external_data=True, location="w.data", size_threshold=0)
        given = sum(each.stat().st_size for each in Path(folder).iterdir())
        return sq.minimize(path, round_to=1, verify=False).model, given


def _failure(name: str, model: ModelProto, result: ModelProto, plain: ModelProto | None, given: int) -> str:
    if signature(model) != signature(result):
        return "another signature"
    if not _valid(result) and _valid(model):  # onnxruntime writes operators for opsets that do not have them
        onnx.checker.check_model(result)
    if elements(result) > elements(model):
        return f"more elements: {elements(result)} after {elements(model)}"
    if result.ByteSize() > given:
        return f"more bytes: {result.ByteSize()} after {given}"
    if name in THE_SAME and plain is not None and weights(result) != weights(plain):
        return f"what is left depends on how it is written: {weights(result)} instead of {weights(plain)}"
    return ""


def _valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def _outputs(model: ModelProto, feeds: dict[str, Array]) -> list[Array] | None:
    """Return the outputs, None where onnxruntime does not take the model."""
    try:
        return run(model, feeds)
    except Exception:
        return None


def _steady(model: ModelProto, feeds: dict[str, Array], outputs: list[Array] | None) -> bool:
    """Whether a network of codes gives the same without optimizations: some of onnxruntime's are wrong for some."""
    try:
        return outputs is not None and not _differs(outputs, run(model, feeds, optimized=False))
    except Exception:
        return False


def _difference(name: str, before: Sequence[list[Array] | None], after: Sequence[list[Array] | None]) -> str:
    """Say what differs for an input; for codes, only if it does for half of them."""
    pairs = [pair for pair in zip(before, after, strict=True) if pair[0] is not None]
    found = [said for expected, actual in pairs if expected is not None and (said := _differs(expected, actual))]
    return found[0] if found and (name not in FORMS or 2 * len(found) >= len(pairs)) else ""


def _differs(expected: list[Array], actual: list[Array] | None) -> str:
    if actual is None:
        return "onnxruntime does not take the result"
    for before, after in zip(expected, actual, strict=True):
        if before.dtype.kind != "f":
            continue  # selections among what rounding cannot tell apart
        if before.shape != after.shape:
            return f"another shape: {after.shape} after {before.shape}"
        finite = np.isfinite(before)
        scale = np.abs(before[finite]).max(initial=0.0) + 1e-30
        if scale > 1e25:
            continue  # what such numbers cancel to is rounding
        if (finite & ~np.isfinite(after)).any():
            return "infinities or NaN where there were none"
        both = finite & np.isfinite(after)
        off = np.abs(before[both].astype(np.float64) - after[both].astype(np.float64)).max(initial=0.0) / scale
        if off > _TOLERANCE[before.dtype]:
            return f"off by {off:.2g} of the output's scale"
    return ""
