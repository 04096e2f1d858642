"""Whole loops of two cycles on three architectures, from a module and from an ONNX file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from onnxsqueeze.training import Best, SqueezeRelease
from tests.training.cycle.architectures import Transformer, convnext, convolutional, evaluate, fit, images, train

NETWORKS = {"cnn": convolutional, "convnext": convnext, "transformer": Transformer}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """A trained network."""
    torch.manual_seed(0)
    found: Callable[[], nn.Module] = NETWORKS[request.param]
    module = found()
    fit(module, epochs=20 if request.param == "transformer" else 6)
    return module.eval()


@pytest.fixture(scope="module")
def made(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Best, Path]:
    """The outcome of two cycles from the module."""
    workdir = tmp_path_factory.mktemp("from_module")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    best = run(network, workdir)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    return best, workdir


def run(source: Any, workdir: Path, **options: Any) -> Best:
    settings = {"round_to": 1, "progress": False, **options}
    cycle = SqueezeRelease(source, images()[0][:2], train, evaluate, workdir, **settings)
    return cycle.run(cycles=2, target_ratio=4.0)


def in_onnxruntime(path: Path) -> float:
    """Return the accuracy of a file as `evaluate` measures it of a module."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs, labels = images()
    outputs = session.run(None, {session.get_inputs()[0].name: inputs[384:].numpy()})[0]
    return float(np.mean(outputs.argmax(1) == labels[384:].numpy()))


def check(best: Best) -> None:
    """Demand a network of the size asked for that does what was measured, in standard operators."""
    assert best.cycle == 2
    assert 3.8 <= best.ratio <= 5.5  # a head of the tiny transformer is a large step
    assert best.front[1].ratio == pytest.approx(2, rel=0.1)
    assert best.metric >= best.front[0].metric - 0.1
    assert in_onnxruntime(best.onnx_path) == pytest.approx(best.metric, abs=1.5 / 128)
    assert not onnx.load(best.onnx_path).functions


def test_two_cycles_from_a_module(made: tuple[Best, Path], network: nn.Module) -> None:
    best, _ = made
    assert best.front[0].metric == pytest.approx(evaluate(network), abs=1.5 / 128)
    assert best.front[0].metric > 0.75, "the dense network has learnt its task"
    check(best)


def test_two_cycles_from_onnx_alone(made: tuple[Best, Path], tmp_path: Path) -> None:
    check(run(made[1] / "dense.onnx", tmp_path, teacher=True))


def test_masks_of_pruning_are_the_first_squeeze(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = convolutional()
    fit(module, epochs=2)
    prune.ln_structured(module[4].conv1, "weight", amount=0.5, n=2, dim=0)
    cycle = SqueezeRelease(module, images()[0][:2], train, evaluate, tmp_path, round_to=1, progress=False)
    given = cycle.run(cycles=0)
    channel = 16 * 9  # of each of two convolutions; one of the eight stays and stands for all in the padded one
    assert given.front[0].elements <= cycle.dense_elements - 2 * 7 * channel
    assert given.metric == pytest.approx(evaluate(module.eval()), abs=1.5 / 128)
