"""Small trained networks with loops of their own, of which a cycle takes a second."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from torch import nn
from torch.nn import functional

from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training import Best, Phase, SqueezeRelease
from onnxsqueeze.training.module import from_onnx
from tests.support.training.graphs import perceptron

FEATURES, CLASSES = 12, 4


def data(samples: int = 768) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of a task that a small network learns."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, FEATURES, generator=generator)
    weights = torch.randn(FEATURES, CLASSES, generator=generator)
    return inputs, torch.tanh(inputs @ weights).argmax(1)


@cache
def dense() -> ModelProto:
    """Return a network of two hidden layers, trained a little."""
    module = from_onnx(perceptron([FEATURES, 32, 32, CLASSES]))
    torch.manual_seed(0)
    fit(module, epochs=6)
    return to_proto(module.write_back())


def fit(module: nn.Module, epochs: int = 1) -> None:
    """Train with momentum and weight decay, in an order that the global generator gives."""
    inputs, labels = data()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(512).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()


def train(module: nn.Module, phase: Phase) -> None:
    """Train for an epoch."""
    fit(module)


def evaluate(module: nn.Module) -> float:
    """Return the accuracy on what `train` does not see."""
    inputs, labels = data()
    with torch.no_grad():
        return float((module(inputs[512:]).argmax(1) == labels[512:]).float().mean())


def started(workdir: Path, **options: Any) -> SqueezeRelease:
    """Begin a run of the perceptron by single weights, which leaves zeros to release, or go on with it."""
    if SqueezeRelease.can_resume(workdir):
        return SqueezeRelease.resume(workdir, train, evaluate, progress=False)
    settings = {"criterion": "magnitude", "round_to": 1, "progress": False, **options}
    return SqueezeRelease(dense(), data()[0][:2], train, evaluate, workdir, **settings)


def complete(workdir: Path, **options: Any) -> Best:
    """Run two cycles of the perceptron to their end, wherever they were interrupted."""
    return started(workdir, **options).run(cycles=2, target_ratio=6.0)
