"""Squeeze by units: criteria of single weights at their level, the mix of both, what the minimizer makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.squeezing.squeeze import SqueezeOutcome, SqueezeSettings, squeeze
from onnxsqueeze.training.squeezing.unit_masks import slices, unit_sums
from onnxsqueeze.units.discovery import units_of
from tests.support.training.graphs import perceptron

SIZES = (12, 40, 30, 5)
BATCHES = [torch.randn(128, 12, generator=torch.Generator().manual_seed(7))]
STRUCTURED = ["magnitude", "random", "taylor", "wanda", "variance"]


def squeezed(module: OnnxModule, target: int, **settings: Any) -> SqueezeOutcome:
    return squeeze(module, target, SqueezeSettings(**settings), BATCHES, torch.Generator().manual_seed(0))


def minimized(module: OnnxModule) -> int:
    return weight_elements(sq.minimize(to_proto(module.write_back()), round_to=1).minimized)


def weakened(units: list[int], factor: float = 1e-3) -> onnx.ModelProto:
    """Return a perceptron in whose first hidden layer some units have small weights in and out."""
    model = perceptron(SIZES)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "fc0.weight":
            array[units] *= factor
        if tensor.name == "fc1.weight":
            array[:, units] *= factor
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


@pytest.mark.parametrize("target", [1400, 700])
@pytest.mark.parametrize("settings", [{}, *({"criterion": name, "structured": True} for name in STRUCTURED)], ids=str)
def test_the_minimized_network_is_as_small_as_asked(settings: dict[str, Any], target: int) -> None:
    module = from_onnx(perceptron(SIZES))
    outcome = squeezed(module, target, **settings)
    assert minimized(module) == pytest.approx(target, rel=0.05)
    assert outcome.left == pytest.approx(target, rel=0.05)
    assert sum(outcome.units.values()) > 0 and not outcome.note


@pytest.mark.parametrize("settings", [{}, *({"criterion": name, "structured": True} for name in STRUCTURED)], ids=str)
def test_units_that_do_nothing_go_first(settings: dict[str, Any]) -> None:
    weak = [3, 11, 17, 29, 38]
    module = from_onnx(weakened(weak))
    squeezed(module, module_elements(module) - len(weak) * (12 + 1 + 30), **settings)
    gone = np.nonzero(~module.masks["fc0.weight"].numpy().any(axis=1))[0].tolist()
    if settings.get("criterion") == "random":
        assert gone != weak
    else:
        assert gone == weak


@pytest.mark.parametrize("settings", [{}, {"criterion": "magnitude", "structured": True}], ids=str)
@pytest.mark.parametrize(
    ("keep", "axis"), [("x", ("fc0.weight", 1)), ("act0", ("fc0.weight", 0)), ("*1", ("fc1.weight", 0))]
)
def test_units_of_named_tensors_stay(settings: dict[str, Any], keep: str, axis: tuple[str, int]) -> None:
    """Of the graph's input those are its columns; without naming them some of each go."""
    for names in ([], [keep]):
        module = from_onnx(perceptron(SIZES))
        with torch.no_grad():
            module.initializers["fc0.weight"][:, :6] *= 1e-3
        squeezed(module, 500, keep=names, **settings)
        mask = module.masks[axis[0]].numpy()
        assert mask.any(axis=1 - axis[1]).all() == bool(names)
        assert minimized(module) == pytest.approx(500, rel=0.1)


def module_elements(module: OnnxModule) -> int:
    return weight_elements(module.model)


@pytest.mark.parametrize("settings", [{}, {"criterion": "magnitude", "structured": True}], ids=str)
def test_latencies_are_measured_or_given(settings: dict[str, Any]) -> None:
    """With a mapping that makes one layer costly, it is that layer that gets narrow."""
    module = from_onnx(perceptron(SIZES))
    squeezed(module, 1400, cost="latency", **settings)
    assert minimized(module) == pytest.approx(1400, rel=0.05)
    units = units_of(module.model, trained=module.initializers)
    layer = next(number for number, group in enumerate(units.groups) if group.size == 30)
    left = []
    for seconds in (1e3, 1e-3):
        module = from_onnx(perceptron(SIZES))
        cost = {number: seconds if number == layer else 1.0 for number in range(len(units.groups))}
        squeezed(module, 1400, cost=cost, **settings)
        mask = module.masks.get("fc1.weight")
        left.append(30 if mask is None else int(mask.any(1).sum()))
    assert left[0] < left[1]


def test_scores_are_summed_over_the_rows_and_columns_of_a_unit() -> None:
    module = from_onnx(perceptron(SIZES))
    units = units_of(module.model, trained=module.initializers)
    values = {name: parameter.detach().abs() for name, parameter in module.initializers.items() if parameter.dim() > 1}
    sums = unit_sums(units, values)
    first = values["fc0.weight"].sum(1) + values["fc1.weight"].sum(0)
    second = values["fc1.weight"].sum(1) + values["fc2.weight"].sum(0)
    inputs = values["fc0.weight"].sum(0)
    expected = torch.cat([first, second, inputs]).double().sort().values
    torch.testing.assert_close(torch.from_numpy(sums).sort().values, expected, rtol=1e-5, atol=1e-6)


def test_slices_end_at_the_target() -> None:
    found = list(slices(1000, 700))
    assert found == [880, 774, 700]
    assert list(slices(700, 700)) == []


def test_single_weights_go_inside_the_units_that_stay() -> None:
    module = from_onnx(perceptron(SIZES))
    outcome = squeezed(module, 600, weights=0.5)
    assert outcome.left == 600
    plain = from_onnx(perceptron(SIZES))
    squeezed(plain, 600)
    assert minimized(plain) < minimized(module)
    assert minimized(module) == pytest.approx((outcome.before + 600) / 2, rel=0.1)


def test_finishing_off_makes_the_minimized_network_smaller_at_equal_weights() -> None:
    sizes = {}
    for finish_off in (0.0, True):
        module = from_onnx(perceptron(SIZES))
        outcome = squeezed(module, 600, weights=0.5, finish_off=finish_off)
        assert outcome.left == pytest.approx(600, abs=1)
        sizes[finish_off] = minimized(module)
    assert sizes[True] < 0.8 * sizes[0.0]


def test_finishing_off_takes_units_of_which_single_weights_leave_little() -> None:
    """Five weak units lose nearly all of their weights to magnitude; they go wholly, and no others."""
    weak = [3, 11, 17, 29, 38]
    module = from_onnx(weakened(weak, 0.02))
    before = squeezed(module, module_elements(module) - 2 * len(weak) * 43, weights=0.99, finish_off=0.2)
    gone = np.nonzero(~module.masks["fc0.weight"].numpy().any(axis=1))[0].tolist()
    assert set(weak) <= set(gone) and before.units["hidden"] <= len(weak) + 2


def test_masks_of_before_stay_and_steps_add_up() -> None:
    module = from_onnx(perceptron(SIZES))
    squeezed(module, 1500)
    before = {name: mask.clone() for name, mask in module.masks.items()}
    outcome = squeezed(module, 700, steps=3)
    assert all(bool((module.masks[name] <= mask).all()) for name, mask in before.items())
    assert minimized(module) == pytest.approx(700, rel=0.05)
    assert outcome.before < 1600


def test_masks_of_single_weights_stay_when_units_go() -> None:
    module = from_onnx(perceptron(SIZES))
    squeezed(module, 1200, criterion="magnitude")
    before = {name: mask.clone() for name, mask in module.masks.items()}
    squeezed(module, 600, criterion="magnitude", structured=True)
    assert all(bool((module.masks[name] <= mask).all()) for name, mask in before.items())
