"""Under the penalty units die, in any loop, and nothing of it is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.squeezing.sparing import sparing
from tests.squeezing.networks import convolutions
from tests.support.training.graphs import graph, node, perceptron

_DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(16, 6, generator=_DRAWN)
IMAGES = torch.randn(4, 2, 8, 8, generator=_DRAWN)


def gradients(module: OnnxModule, inputs: Tensor, penalty: float, explicit: bool) -> dict[str, Tensor]:
    """Return the gradients of a loss with the penalty of weights [out, in, ...], spelt out or by the hooks."""
    loss = module(inputs).square().mean()
    if explicit:
        weights = {name: p * module.masks.get(name, 1) for name, p in module.initializers.items() if p.dim() > 1}
        norms = [w.transpose(0, 1).flatten(1).norm(dim=1) for w in weights.values()]
        loss = loss + penalty * torch.cat(norms).sum()
    module.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in module.initializers.items() if p.grad is not None}


@pytest.mark.parametrize(
    ("source", "inputs"),
    [(perceptron((6, 8, 4)), X), (convolutions(np.random.default_rng(1)), IMAGES)],
    ids=["products", "convolutions"],
)
def test_the_gradient_is_that_of_the_loss_with_the_penalty(source: object, inputs: Tensor) -> None:
    module = from_onnx(source)
    name = next(name for name, parameter in module.initializers.items() if parameter.dim() > 1)
    module.set_masks({name: torch.rand(module.initializers[name].shape, generator=_DRAWN) < 0.7})
    plain, wanted = (gradients(module, inputs, penalty, True) for penalty in (0.0, 0.3))
    with sparing(module, 0.3):
        found = gradients(module, inputs, 0.3, False)
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        mask = module.masks.get(key, torch.ones_like(gradient, dtype=torch.bool))
        torch.testing.assert_close(found[key][mask], gradient[mask], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(found[key], plain[key]) for key in plain)
    for key, gradient in gradients(module, inputs, 0.0, False).items():
        torch.testing.assert_close(gradient, plain[key])


def test_channels_of_groups_are_told_apart_and_tables_stay() -> None:
    """A grouped convolution sees each channel in one group; rows of a table are no channels that a layer reads."""
    random = np.random.default_rng(2)
    kernel = random.normal(size=(6, 2, 1)).astype(np.float32)
    table = random.normal(size=(5, 4)).astype(np.float32)
    nodes = [
        node("Gather", "table x", "rows", axis=0),
        node("Transpose", "rows", "turned", perm=[0, 2, 1]),
        node("Conv", "turned k", "y", group=2),
    ]
    module = from_onnx(graph(nodes, {"table": table, "k": kernel}, {"x": ["n", "t"]}, {"y": ["n", 6, "t"]}, kind=7))
    weight = module.initializers["k"].detach()
    with sparing(module, 1.0):
        (0 * module(torch.zeros(2, 3, dtype=torch.int64))).sum().backward()
    norms = weight.reshape(2, 3, 2).norm(dim=1, keepdim=True).expand(2, 3, 2).reshape(6, 2, 1)
    torch.testing.assert_close(module.initializers["k"].grad, weight / norms)
    assert not module.initializers["table"].grad.any()


def test_units_that_nothing_needs_die_and_the_others_stay() -> None:
    """Four of twelve hidden units are read by small noise, and nothing is lost without them."""
    module = from_onnx(perceptron((6, 12, 3)))
    with torch.no_grad():
        module.initializers["fc1.weight"][:, :4] *= 0.02
        wanted = module(X)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    with sparing(module, 1e-3):
        for _ in range(60):
            optimizer.zero_grad()
            (module(X) - wanted).square().mean().backward()
            optimizer.step()
    norms = module.initializers["fc1.weight"].detach().norm(dim=0)
    assert norms[:4].max() < 0.1 * norms[4:].min()
