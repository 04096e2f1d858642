"""Layers are repaired for what a squeeze takes: the same least squares as `onnxsqueeze.squeeze`, on a module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.squeezing.squeeze import SqueezeSettings, squeeze
from tests.squeezing.networks import convolutions
from tests.squeezing.test_recurrent import network as recurrent
from tests.support.training.graphs import perceptron

_DRAWN = torch.Generator().manual_seed(7)
X = torch.randn(512, 12, generator=_DRAWN)
_IMAGES = torch.randn(60, 2, 8, 8, generator=_DRAWN)
_SEQUENCES = torch.randn(100, 7, 3, generator=_DRAWN)


def squeezed(source: object, inputs: Tensor, target: int, repair: bool, **settings: object) -> OnnxModule:
    module = from_onnx(source)
    chosen = SqueezeSettings(repair=repair, likelihood="gaussian", **settings)
    outcome = squeeze(module, target, chosen, list(inputs.split(100)), torch.Generator().manual_seed(0))
    assert bool(outcome.repaired) == repair
    return module


@torch.no_grad()
def error(module: OnnxModule, source: object, inputs: Tensor) -> float:
    return float((module(inputs) - from_onnx(source)(inputs)).square().mean())


@pytest.mark.parametrize(
    ("source", "inputs", "target", "settings"),
    [
        (perceptron((12, 40, 30, 5)), X, 900, {}),
        (perceptron((12, 40, 30, 5)), X, 900, {"steps": 3}),
        (perceptron((12, 40, 30, 5)), X, 900, {"weights": 0.3}),
        (perceptron((12, 40, 30, 5)), X, 900, {"criterion": "magnitude"}),
        (convolutions(np.random.default_rng(1)), _IMAGES, 650, {}),
        (recurrent("LSTM"), _SEQUENCES, 150, {}),
    ],
    ids=["units", "steps", "units and weights", "weights", "convolutions", "recurrent"],
)
def test_outputs_change_less_and_no_more_is_left(
    source: object, inputs: Tensor, target: int, settings: dict[str, object]
) -> None:
    plain, repaired = (squeezed(source, inputs, target, repair, **settings) for repair in (False, True))
    assert error(repaired, source, inputs) < 0.9 * error(plain, source, inputs)
    for name, mask in repaired.masks.items():
        assert not repaired.write_back().initializers[name].array[~mask.numpy()].any()


def test_a_layer_becomes_what_least_squares_give() -> None:
    """The second of two layers, by numpy's own solver from what its hidden units give."""
    source = perceptron((12, 40, 5))
    module = squeezed(source, X, 400, True)
    before, now = from_onnx(source), module.write_back().initializers
    kept = (now["fc1.weight"].array != 0).any(axis=0)
    assert 5 < kept.sum() < 35
    with torch.no_grad():
        hidden = torch.relu(X @ before.initializers["fc0.weight"].T + before.initializers["fc0.bias"])
        wanted = before(X).numpy()
    columns = np.column_stack([hidden.numpy()[:, kept], np.ones(len(X))]).astype(np.float64)
    best = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    least = ((columns @ best - wanted) ** 2).mean()
    assert (1 - 1e-5) * least <= error(module, source, X) < 1.01 * least  # a little ridge, and float32
