"""Exports of networks for sequences: every channel that a mask made removable leaves, whatever was exported how."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest

from tests.support.exports.sequences import (
    DEAD,
    OUT,
    PLACES,
    UNITS,
    WIDTH,
    WORDS,
    Language,
    Patches,
    Recurrent,
    exported,
)
from tests.support.planted.checks import SINGLE, deviation, minimize, run, weights

KEPT = WIDTH - len(DEAD)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def minimized(model: onnx.ModelProto, *shape: int, words: bool = False) -> list[tuple[int, ...]]:
    """Minimize, compare, and return the shapes of what is stored, without vectors."""
    random = np.random.default_rng(0)
    x = random.integers(0, WORDS, shape) if words else random.standard_normal(shape).astype(np.float32)
    result = minimize(model).model
    assert deviation(run(model, {"x": x}), run(result, {"x": x})) <= SINGLE
    return [shape for shape in weights(result) if prod(shape) != max(shape, default=1)]


@pytest.mark.parametrize(
    ("way", "tied"),
    [
        ("older", False),
        ("older", True),
        ("older-12", True),
        ("older-plain", True),
        ("newer", True),
        ("newer-plain", True),
    ],
)
def test_language(way: str, tied: bool) -> None:
    """A table that the head shares is stored as often as before."""
    model = exported(Language(tied), way)
    found = minimized(model, 3, 5, words=True)
    heads = [shape for shape in found if prod(shape) == WORDS * KEPT]
    before = [tensor for tensor in weights(model) if prod(tensor) == WORDS * WIDTH]
    assert len(heads) == len(before)
    assert (PLACES, KEPT) in found
    assert not any(WIDTH in shape for shape in found)


@pytest.mark.parametrize("way", ["older", "older-12", "newer"])
def test_class_token(way: str) -> None:
    found = minimized(exported(Patches(), way, axes=1), 3, 3, 8, 8)
    assert not any(WIDTH in shape for shape in found)
    assert {(KEPT, 3, 4, 4), (1, 5, KEPT)} <= set(found)


@pytest.mark.parametrize(
    ("kind", "way"), [*((kind, "older") for kind in GATES), ("LSTM", "older-12"), ("LSTM", "newer")]
)
def test_recurrent_layers(kind: str, way: str) -> None:
    """Every direction of two layers loses two of its units."""
    kept = UNITS - 2
    rows = GATES[kind] * kept
    found = minimized(exported(Recurrent(kind, 2, True), way), 3, 5, 5)
    layers = [(2, rows, 5), (2, rows, kept), (2, rows, 2 * kept), (2, rows, kept), (2, 2 * rows), (2, 2 * rows)]
    assert sorted(found) == sorted([*layers, (2 * kept, OUT)])
