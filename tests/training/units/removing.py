"""Removing units of a stored model: masks burnt in, minimized, verified."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.training.units import Units
from onnxsqueeze.units.units import Bools
from tests.support.blocks.exporting import export
from tests.support.exports.exporters import Exporter, exported
from tests.support.training.library import FUSED, library

CONVOLUTIONAL = Exporter(13, False, True)
CONVOLUTIONS = ("mlp", "resnet", "regnet", "efficientnet")


class Recurrent(nn.Module):
    """A layer, two recurrent ones, and a layer that reads the last step."""

    def __init__(self, kind: type[nn.RNNBase], both_ways: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 12), nn.Linear(16 * (1 + both_ways), 5)
        self.layers = kind(12, 16, num_layers=2, batch_first=True, bidirectional=both_ways)

    def forward(self, x: Tensor) -> Tensor:
        """Classify [batch, steps, 6]."""
        found: Tensor = self.head(self.layers(self.embed(x))[0][:, -1])
        return found


def convolutions() -> nn.Module:
    """Two convolutions whose channels, at 9 positions each, a layer reads side by side."""
    torch.manual_seed(1)
    return (
        nn.Sequential(
            nn.Conv2d(2, 8, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(54, 16),
        )
        .append(nn.ReLU())
        .append(nn.Linear(16, 3))
        .eval()
    )


@cache
def model(name: str) -> onnx.ModelProto:
    """A dense network by its name in the tests of exporters, of the library, or of recurrent layers."""
    if name == "convolutions":
        return export(convolutions(), torch.zeros(2, 2, 10, 10), "older-14")
    if name in ("LSTM", "GRU"):
        torch.manual_seed(0)
        return export(Recurrent(getattr(nn, name), name == "LSTM").eval(), torch.zeros(2, 7, 6), "older-14")
    if name in CONVOLUTIONS:
        return exported(name, "", CONVOLUTIONAL)
    return library("llama", FUSED) if name == "fused" else library(name)


def random_scores(units: Units, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One positive score for each unit."""
    return np.random.default_rng(seed).random(len(units))


def without(source: onnx.ModelProto, units: Units, removed: Bools) -> Model:
    """The model with the elements of removed units set to zero."""
    dense = load(source)
    initializers = dict(dense.initializers)
    for name, mask in units.masks(removed).items():
        initializers[name] = initializers[name].with_array(np.where(mask, initializers[name].array, 0))
    return replace(dense, initializers=initializers)


def minimized(masked: Model, verify: bool = True) -> Model:
    """Minimize to the smallest; raises where the result differs."""
    return sq.minimize(to_proto(masked), round_to=1, layernorm="function", verify=verify, samples=1).minimized
