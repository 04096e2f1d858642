"""Release: the change that was asked for, from noise that a seed repeats, and nothing touched but zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.squeezing.release import ReleaseReport, release
from tests.support.training.graphs import graph, layer, node, perceptron

BATCHES = list(torch.randn(64, 12, generator=torch.Generator().manual_seed(3)).split(32))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse(share: float = 0.6, seed: int = 0) -> OnnxModule:
    """Return a perceptron with exact zeros in its weights."""
    model = perceptron([12, 20, 16, 5], seed)
    random = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array * (random.random(array.shape) > share), tensor.name))
    return from_onnx(model)


def outputs(module: OnnxModule) -> torch.Tensor:
    module.eval()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in BATCHES]).double()


@pytest.mark.parametrize("change", [0.001, 0.01, 0.1, 0.5])
def test_the_outputs_change_as_much_as_asked(change: float) -> None:
    module = sparse()
    before = outputs(module)
    report = release(module, change, BATCHES, generator())
    measured = float((outputs(module) - before).norm() / before.norm())
    assert measured == pytest.approx(change, rel=0.02)
    assert report.change == pytest.approx(measured, rel=1e-6)
    assert report.evaluations <= (5 if change < 0.5 else 20)  # in proportion, as long as noise is small


def test_all_zeros_and_only_they_become_noise_of_the_tensors_own_spread() -> None:
    module = sparse()
    before = {name: parameter.detach().clone() for name, parameter in module.initializers.items()}
    report = release(module, 0.01, BATCHES, generator())
    for name, parameter in module.initializers.items():
        zero = before[name] == 0
        assert torch.equal(parameter[~zero], before[name][~zero])
        if not name.endswith("weight"):
            assert torch.equal(parameter, before[name])
            continue
        assert report.zeros[name] == int(zero.sum()) and bool((parameter != 0).all())
        own = float(before[name][~zero].square().mean().sqrt())
        assert float(parameter.detach()[zero].std()) == pytest.approx(report.factor * own, rel=0.35)
    assert report.total == sum(report.zeros.values())


def test_a_seed_repeats_the_release_and_another_does_not() -> None:
    found = []
    for seed in (0, 0, 1):
        module = sparse()
        report = release(module, 0.01, BATCHES, generator(seed))
        found.append((report, {name: value.detach().clone() for name, value in module.initializers.items()}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
    assert any(not torch.equal(found[0][1][name], found[2][1][name]) for name in found[0][1])


def test_masks_are_removed_and_what_lay_under_them_does_not_return() -> None:
    module = from_onnx(perceptron([12, 20, 16, 5]))
    mask = torch.rand(20, 12, generator=generator()) > 0.5
    module.set_masks({"fc0.weight": mask})
    before = outputs(module)
    report = release(module, 0.01, BATCHES, generator())
    assert not module.masks
    assert report.zeros == {"fc0.weight": int((~mask).sum())}
    assert float((outputs(module) - before).norm() / before.norm()) == pytest.approx(0.01, rel=0.02)


def test_without_zeros_nothing_happens_and_the_report_says_so() -> None:
    module = from_onnx(perceptron([12, 20, 5]))
    before = outputs(module)
    report = release(module, 0.01, BATCHES, generator())
    assert report == ReleaseReport({}, 0.0, 0.0, 0.01, 0, "there are no exact zeros")
    assert torch.equal(outputs(module), before)


def test_a_chance_zero_is_not_worth_an_evaluation() -> None:
    module = from_onnx(perceptron([12, 20, 5]))
    with torch.no_grad():
        module.initializers["fc0.weight"][3, 4] = 0
    before = outputs(module)
    report = release(module, 0.01, [], generator(), least=2)
    assert report == ReleaseReport({}, 0.0, 0.0, 0.01, 0, "exact zeros: 1, which are too few to be worth it")
    assert torch.equal(outputs(module), before)
    assert release(module, 0.01, BATCHES, generator(), least=1).total == 1


def test_zeros_that_no_output_depends_on_stay_zeros() -> None:
    weights = {"w": np.zeros((4, 12), np.float32), "v": np.eye(12, dtype=np.float32)[:3] + 1}
    nodes = [
        node("Gemm", "x v", "y", transB=1),
        node("Gemm", "x w", "hidden", transB=1),
        node("Mul", "hidden zero", "nothing"),
        node("ReduceSum", "nothing", "sum", keepdims=1),
        node("Add", "y sum", "z"),
    ]
    model = graph(nodes, {**weights, "zero": np.zeros(1, np.float32)}, {"x": ["n", 12]}, {"z": ["n", 3]})
    module = from_onnx(model)
    report = release(module, 0.01, BATCHES, generator())
    assert report.total == 0 and "no noise in place of the zeros" in report.note
    assert not module.initializers["w"].any()


def test_outputs_that_are_all_zero_have_no_relative_change() -> None:
    report = release(layer(np.zeros((3, 12))), 0.01, BATCHES, generator())
    assert report.total == 0 and "all zero or not finite" in report.note


def test_a_tensor_of_zeros_alone_gets_the_spread_of_its_fan_in() -> None:
    weights = {"w": np.zeros((64, 12), np.float32), "v": np.random.default_rng(0).random((64, 12)).astype(np.float32)}
    nodes = [node("Gemm", "x w", "a", transB=1), node("Gemm", "x v", "b", transB=1), node("Add", "a b", "y")]
    module = from_onnx(graph(nodes, weights, {"x": ["n", 12]}, {"y": ["n", 64]}))
    report = release(module, 0.01, BATCHES, generator())
    assert float(module.initializers["w"].detach().std()) == pytest.approx(report.factor * 12**-0.5, rel=0.1)


def test_modes_and_statistics_stay_as_they_were() -> None:
    model = graph(
        [node("Gemm", "x w", "a", transB=1), node("BatchNormalization", "a s c m v", "y")],
        {
            "w": np.eye(12, dtype=np.float32)[:4],
            "s": np.array([1.0, 2.0, 3.0, 4.0], np.float32),
            "c": np.ones(4, np.float32),
            "m": np.zeros(4, np.float32),
            "v": np.ones(4, np.float32),
        },
        {"x": ["n", 12]},
        {"y": ["n", 4]},
    )
    module = from_onnx(model)
    module.train()
    statistics = {name: value.clone() for name, value in module.statistics.items()}
    assert release(module, 0.01, BATCHES, generator()).total == 4 * 11
    assert module.training
    assert statistics and all(torch.equal(module.statistics[name], value) for name, value in statistics.items())


@pytest.mark.parametrize("change", [0.0, -0.1, float("nan"), float("inf")])
def test_a_change_that_is_none_is_refused(change: float) -> None:
    with pytest.raises(UsageError, match="relative change"):
        release(sparse(), change, BATCHES, generator())


def test_no_batch_is_refused_before_anything_changes() -> None:
    module = sparse()
    before = outputs(module)
    with pytest.raises(UsageError, match="no calibration batch"):
        release(module, 0.01, [], generator())
    assert torch.equal(outputs(module), before)
