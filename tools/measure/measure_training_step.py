"""Measure the time of a training step of a module made from ONNX against that of the network it was exported from.

    python tools/measure/measure_training_step.py [NAME ...]

prints for each network the median time of a step of both (forward, backward, AdamW), taken in turns, and their ratio.
"""

from __future__ import annotations

import copy
import io
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn

from onnxsqueeze.training.module import from_onnx
from tools.models.architectures.networks import ARCHITECTURES, build

STEPS, WARM = 30, 5
WANTED = 1.1


def perceptron() -> tuple[nn.Module, Tensor]:
    """784-1024-1024-10 on a batch of 128."""
    layers = [nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    return nn.Sequential(nn.Flatten(), *layers), torch.randn(128, 1, 28, 28)


def convolutional() -> tuple[nn.Module, Tensor]:
    """A VGG with BatchNorm on images of 32x32."""
    blocks: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        for channels in (before, after):
            blocks += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        blocks.append(nn.MaxPool2d(2))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)), torch.randn(16, 3, 32, 32)


def library(name: str, shape: tuple[int, ...], **settings: object) -> Callable[[], tuple[nn.Module, Tensor]]:
    """A network of transformers, on images or on tokens."""

    def made() -> tuple[nn.Module, Tensor]:
        architecture = copy.deepcopy(ARCHITECTURES[name])
        architecture.small.update(settings)
        inputs = torch.randint(0, 32, shape) if len(shape) == 2 else torch.randn(shape)
        network = build(architecture)
        network.names = network.names[:1]
        return network, inputs

    return made


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "mlp": perceptron,
    "cnn": convolutional,
    "convnext": library("convnext", (16, 3, 32, 32), hidden_sizes=[64, 128], depths=[2, 2]),
    "vit": library("vit", (16, 3, 32, 32), hidden_size=128, intermediate_size=512),
    "gpt2": library("gpt2", (8, 32), n_embd=128),
    "llama": library("llama", (8, 32), hidden_size=128, intermediate_size=256),
}


def exported(network: nn.Module, inputs: Tensor) -> onnx.ModelProto:
    """Export as training wants it: every parameter under its name, nothing folded."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            copy.deepcopy(network).eval(), (inputs,), dynamo=True, optimize=False, verbose=False
        )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    return onnx.load_from_string(file.getvalue())


def stepper(network: nn.Module, inputs: Tensor) -> Callable[[], float]:
    """Return a function that takes one step and says how many seconds it took."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def measure(name: str, masked: bool) -> float:
    """Print both times and return their ratio."""
    torch.manual_seed(0)
    network, inputs = NETWORKS[name]()
    module = from_onnx(exported(network, inputs))
    if masked:
        module.set_masks({key: torch.rand(value.shape) < 0.5 for key, value in module.initializers.items()})
    steps = stepper(network.train(), inputs), stepper(module.train(), inputs)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(STEPS + WARM):
        for step, found in zip(steps, times, strict=True):
            seconds = step()
            if turn >= WARM:
                found.append(seconds)
    ratio = statistics.median(ours / theirs for theirs, ours in zip(*times, strict=True))
    theirs, ours = (1e3 * statistics.median(found) for found in times)
    print(f"{name:10} {'masked' if masked else '':6} source {theirs:8.2f} ms  module {ours:8.2f} ms  ratio {ratio:.3f}")
    return ratio


def main() -> None:
    """Measure the networks named on the command line, else all."""
    torch.set_num_threads(1)
    ratios = [measure(name, masked) for name in sys.argv[1:] or NETWORKS for masked in (False, True)]
    above = sum(ratio > WANTED for ratio in ratios)
    print(f"{above} of {len(ratios)} above {WANTED}")


if __name__ == "__main__":
    main()
