"""A module made from ONNX does what the network did that it was exported from: forward, gradients, statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training.module import OnnxModule, from_onnx
from tests.support.training.library import FUSED, library
from tests.training.module.networks import Convolutional, Normed, Tied, exported, perceptron
from tools.models.architectures.exports import Exporter, Source

OUTPUT, GRADIENT = 5e-6, 2e-4  # of the largest element, in float32


def assert_close(found: Tensor, wanted: Tensor, tolerance: float, floor: float = 1e-6) -> None:
    assert found.shape == wanted.shape and torch.isfinite(found).all()
    assert float((found - wanted).detach().abs().max()) <= tolerance * max(floor, float(wanted.detach().abs().max()))


def gradients(network: nn.Module, inputs: tuple[Tensor, ...], weights: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    (network(*inputs) * weights).sum().backward()
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def assert_equal_training(module: OnnxModule, source: nn.Module, inputs: tuple[Tensor, ...], compared: int) -> None:
    """Compare outputs, the gradients of parameters with the same name, and what statistics become."""
    wanted = source(*inputs)
    assert_close(module(*inputs), wanted, OUTPUT)
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = gradients(module, inputs, weights), gradients(source, inputs, weights)
    common = [name for name in theirs if name in ours]
    assert len(common) == compared
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())  # that of a key's bias is 0 but for noise
    for name in common:
        assert_close(ours[name], theirs[name], GRADIENT, floor=1e-2 * scale)
    for name, statistic in module.statistics.items():
        assert_close(statistic, source.get_buffer(name), OUTPUT)


def in_runtime(model: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> Tensor:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


def images(batch: int) -> tuple[Tensor]:
    return (torch.randn(batch, 3, 12, 12),)


def words(batch: int) -> tuple[Tensor]:
    return (torch.randint(0, 11, (batch, 5)),)


OWN: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]], int]] = {
    "mlp": (perceptron, lambda batch: (torch.randn(batch, 3, 4),), 6),
    "cnn": (Convolutional, images, 9),
    "normed": (Normed, lambda batch: (torch.randn(batch, 6),), 12),
    "tied": (Tied, words, 3),
}


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", OWN)
def test_own_networks(name: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    build, inputs, parameters = OWN[name]
    source = build()
    model = exported(source, *inputs(2), dynamo=dynamo)
    module = from_onnx(model).eval()
    for batch in (1, 4):
        given = inputs(batch)
        assert_close(module(*given), in_runtime(model, given), OUTPUT)
    for training in (False, True):
        assert_equal_training(module.train(training), source.train(training), inputs(4), parameters)


@pytest.mark.parametrize("dynamo", [True, False])
def test_merged_initializers_train_apart(dynamo: bool) -> None:
    """Both exporters merge equal biases and gammas when they optimize; their gradients differ all the same."""
    torch.manual_seed(0)
    source, x = Normed(), torch.randn(3, 6)
    module = from_onnx(exported(source, x, dynamo=dynamo, optimize=True))
    copies = [name for names in module.preparation.untied.values() for name in names]
    assert len(copies) == (4 if dynamo else 7) and not module.preparation.shared  # the newer one drops biases of zero
    assert len(module.preparation.lines()) == 2
    weights = torch.randn(3, 6)
    ours, theirs = gradients(module, (x,), weights), gradients(source, (x,), weights)
    for name, wanted in theirs.items():
        if not dynamo:
            assert_close(ours[name], wanted, GRADIENT)
        elif "bias" not in name or "norms" in name:
            assert any(torch.allclose(wanted, other, rtol=1e-4, atol=1e-6) for other in ours.values())
    tied = from_onnx(exported(source, x, dynamo=dynamo, optimize=True), untie=False)
    assert len(tied.initializers) < len(module.initializers) and tied.preparation.shared
    assert_close(tied(x), module(x), OUTPUT)


def test_tied_table_stays_one() -> None:
    source = Tied()
    for dynamo in (True, False):
        module = from_onnx(exported(source, *words(2), dynamo=dynamo), untie="all")
        assert "words.weight" in module.initializers and not module.preparation.untied
        assert sum(value.ndim == 2 for value in module.initializers.values()) == 2


def test_untied_initializers_are_written_back() -> None:
    torch.manual_seed(0)
    source, x = Normed(), torch.randn(3, 6)
    model = exported(source, x, dynamo=True, optimize=True)
    module = from_onnx(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    written = to_proto(module.write_back())
    onnx.checker.check_model(written, full_check=True)
    assert_close(in_runtime(written, (x,)), module(x), OUTPUT)
    assert not np.allclose(in_runtime(model, (x,)), module(x).detach())


FOLDED = Exporter(17, dynamo=False, attention="sdpa", optimize=True)
OLDER = Exporter(17, False)
REAL = [
    *((name, exporter) for name in ("convnext", "vit", "llama") for exporter in (OLDER, FOLDED)),
    ("gpt2", OLDER),  # folded, its head is no longer its table
    ("llama", FUSED),
]


@pytest.mark.parametrize(("name", "exporter"), REAL, ids=lambda value: getattr(value, "name", value))
def test_real_networks(name: str, exporter: Exporter) -> None:
    source = Source(name)
    network = copy.deepcopy(source.network(exporter.attention))
    model = library(name, exporter)
    module = from_onnx(model)
    inputs = tuple(source.feeds(3, 9).values())
    names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    if not exporter.optimize:
        assert len(module.initializers) == len(list(network.parameters()))
        assert set(module.initializers) <= names or not exporter.dynamo
    compared = sum(1 for name, _ in network.named_parameters() if name in module.initializers)
    assert compared >= 5
    assert_equal_training(module, network, inputs, compared)
    assert_close(module(*inputs), in_runtime(model, inputs), OUTPUT)
