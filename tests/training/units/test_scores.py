"""Scores of units against gates that are put in by hand, and against what removing units does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.units import Units, remove_units, unit_scores
from onnxsqueeze.units.discovery import units_of
from tests.support.blocks.exporting import export
from tests.training.units.removing import minimized, model

Values = np.ndarray[tuple[int], np.dtype[np.float64]]
FEATURES, HIDDEN, CLASSES = 12, 24, 5


def perceptron() -> nn.Sequential:
    """A small classifier, trained for a moment on what a random one says."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )
    teacher = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(300):
        x = torch.randn(128, FEATURES)
        loss = functional.cross_entropy(network(x), (3 * teacher(x)).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def module_of(network: nn.Module) -> tuple[OnnxModule, Units]:
    """The module made from its export, and its units."""
    source = export(network.eval(), torch.zeros(2, FEATURES), "older-14")
    module = from_onnx(source)
    return module, units_of(module.model, columns=False, trained=module.initializers)


def divergence(module: OnnxModule, units: Units, x: Tensor) -> Values:
    """What the removal of each unit alone does to the output's distribution, KL, mean over samples."""
    with torch.no_grad():
        module.set_masks({})
        before = functional.log_softmax(module(x).double(), 1)
        found = []
        for unit in range(len(units)):
            module.set_masks(units.masks(np.arange(len(units)) == unit))
            after = functional.log_softmax(module(x).double(), 1)
            found.append(float((before.exp() * (before - after)).sum(1).mean()))
        module.set_masks({})
    return np.array(found)


def rank_correlation(left: Values, right: Values) -> float:
    """Spearman's; there are no ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_scores_rank_units_as_their_removal_does() -> None:
    module, units = module_of(perceptron())
    x = torch.randn(512, FEATURES)
    scores = unit_scores(module, units, [x, torch.randn(256, FEATURES)])
    true = divergence(module, units, x)
    assert rank_correlation(scores, true) >= 0.9
    assert rank_correlation(np.random.default_rng(0).permutation(scores), true) < 0.5


def test_score_is_the_squared_derivative_by_a_gate() -> None:
    """The mean over samples of (sum of a dL/da)^2, with the label that the generator draws."""
    network = perceptron()
    module, units = module_of(network)
    x = torch.randn(50, FEATURES)
    scores = unit_scores(module, units, [x], generator=torch.Generator().manual_seed(7))
    gates = torch.ones(50, HIDDEN, requires_grad=True)
    output = network[2:](network[:2](x) * gates)
    label = torch.multinomial(output.detach().softmax(1), 1, generator=torch.Generator().manual_seed(7))
    (gradient,) = torch.autograd.grad(-output.log_softmax(1).gather(1, label).sum(), gates)
    expected = gradient.double().square().mean(0).numpy()
    first = next(reading for reading in units.readings if reading.classes.size == HIDDEN)
    found = [scores[units.members[0][units.members[1] == one]][0] for one in first.classes.ravel()]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_regression_and_modes() -> None:
    module, units = module_of(nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)))
    module.train()
    module.set_masks({})
    batches = [torch.randn(40, FEATURES)]
    first = unit_scores(module, units, batches, likelihood="gaussian", generator=torch.Generator().manual_seed(1))
    again = unit_scores(module, units, batches, generator=torch.Generator().manual_seed(1))
    assert module.training
    np.testing.assert_array_equal(first, again)
    assert (first > 0).all()
    with pytest.raises(UsageError, match="no calibration batch"):
        unit_scores(module, units, [])


def test_a_head_is_worth_what_its_gate_is() -> None:
    """Of a head the sum over its dims is squared; both halves of two heads that cancel are worth something alone."""
    module = from_onnx(model("vit"))
    units = units_of(module.model, columns=False, trained=module.initializers)
    images = torch.randn(
        6, *[int(d.dim_value) for d in module.model.skeleton.graph.input[0].type.tensor_type.shape.dim[1:]]
    )
    generator = torch.Generator().manual_seed
    scores = unit_scores(module, units, [images], generator=generator(3))
    assert np.isfinite(scores).all()
    table = units.tables[1]  # values of the first block
    members = units.members[1][np.isin(units.members[0], table)]
    reading = next(reading for reading in units.readings if reading.whole and np.isin(members, reading.classes).all())
    outputs, found = module.eval().run([images], [reading.tensor])
    value = found[reading.tensor]
    label = torch.multinomial(outputs.detach().softmax(1), 1, generator=generator(3))
    (gradient,) = torch.autograd.grad(-outputs.log_softmax(1).gather(1, label).sum(), value)
    gates = (value * gradient).double().sum(1).detach().numpy()
    for head in np.nonzero(units.of_kind("head"))[0]:
        mine = np.isin(reading.classes.ravel(), units.members[1][units.members[0] == head])
        if mine.any():
            assert scores[head] == pytest.approx((gates[:, mine].sum(1) ** 2).mean(), rel=1e-4)


def test_a_position_is_worth_what_its_gate_is() -> None:
    """And its channel what one gate on all of its positions is."""
    module = from_onnx(model("convolutions"))
    units = units_of(module.model, positions=True, trained=module.initializers)
    (layer,) = units.gathered
    images, generator = torch.randn(8, 2, 10, 10), torch.Generator().manual_seed
    scores = unit_scores(module, units, [images], generator=generator(5))
    (tensor,) = {each.tensor for each in units.readings if np.isin(each.classes, layer.columns).all()}
    outputs, found = module.eval().run([images], [tensor])
    value = found[tensor]
    label = torch.multinomial(outputs.detach().softmax(1), 1, generator=generator(5))
    (gradient,) = torch.autograd.grad(-outputs.log_softmax(1).gather(1, label).sum(), value)
    gates = (value * gradient).double().detach().numpy()
    of = {int(one): int(unit) for unit, one in zip(*units.members, strict=True)}
    channels = gates.reshape(8, 6, 9).sum(2)
    for classes, expected in ((layer.columns, gates), (layer.read[::9], channels)):
        own = scores[[of[int(one)] for one in classes]]
        np.testing.assert_allclose(own, (expected**2).mean(0), rtol=1e-3, atol=1e-9)


def test_units_are_removed_from_a_module() -> None:
    """To the size asked for, with masks of before in force, and the file that is written back minimizes to it."""
    module = from_onnx(model("gpt2"))
    name = next(name for name in module.initializers if name.endswith("0.mlp.c_fc.weight"))
    mask = torch.rand(module.initializers[name].shape, generator=torch.Generator().manual_seed(0)) > 0.2
    mask[:, 5] = False  # a hidden unit, as good as gone
    module.set_masks({name: mask})
    module.train()
    tokens = torch.randint(0, 90, (4, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    units = units_of(module.model, trained=module.initializers)
    target = 0.5 * units.elements
    removal = remove_units(module, target, [tuple(batch[name] for name in module.input_names)], units=units)
    assert module.training
    assert 0.97 * target <= removal.left <= target
    assert removal.rounds == 6  # 0.88 ** 6 < 0.5
    assert not (module.masks[name] & ~mask).any()
    small = weight_elements(minimized(module.write_back()))
    assert units.left(removal.removed, standing=False) - 8 <= small <= removal.left + 8
    assert sum(removal.by_kind.values()) > 0
    with pytest.raises(UsageError, match="at least 1"):
        remove_units(module, 0, [])
