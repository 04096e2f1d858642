"""Squeeze by single weights: how many are left, which, and what stays whatever the scores say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.training.criteria import CriterionContext, criterion
from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.squeezing.squeeze import SqueezeOutcome, SqueezeSettings, squeeze
from tests.support.training.graphs import perceptron

SIZES = (12, 40, 30, 5)
DENSE = 12 * 40 + 40 * 30 + 30 * 5 + 75
BATCHES = [torch.randn(64, 12, generator=torch.Generator().manual_seed(7))]


@criterion("of the tests")
def first_layer_first(parameter: Tensor, context: CriterionContext) -> Tensor:
    """What a user could register: the first layer is worth nothing."""
    return parameter.abs() * (0.0 if context.name == "fc0.weight" else 1.0)


def network() -> OnnxModule:
    return from_onnx(perceptron(SIZES))


def squeezed(module: OnnxModule, target: int, seed: int = 0, train: Any = None, **settings: Any) -> SqueezeOutcome:
    generator = torch.Generator().manual_seed(seed)
    return squeeze(module, target, SqueezeSettings(**settings), BATCHES, generator, train=train)


def left(module: OnnxModule) -> int:
    """Count what is not zero in the linear weights that are written back, and all else."""
    model = module.write_back()
    weights = {name: entry.array for name, entry in model.initializers.items() if name.endswith("weight")}
    zeros = sum(int((array == 0).sum()) for array in weights.values())
    return weight_elements(model) - zeros


@pytest.mark.parametrize("name", ["magnitude", "random", "taylor", "wanda", "variance", "of the tests"])
@pytest.mark.parametrize("target", [1500, 400])
def test_as_many_are_left_as_asked(name: str, target: int) -> None:
    module = network()
    outcome = squeezed(module, target, criterion=name)
    assert outcome.before == DENSE
    assert outcome.left == left(module) == target
    assert outcome.note == ""
    assert {entry: (int(mask.sum()), mask.numel()) for entry, mask in module.masks.items()} == outcome.tensors
    assert all(name.endswith("weight") for name in module.masks)


def test_the_largest_weights_of_all_layers_stay() -> None:
    module = network()
    squeezed(module, 500, criterion="magnitude", floor=0.0)
    weights = {
        name: parameter.detach().abs() for name, parameter in module.initializers.items() if name in module.masks
    }
    border = min(float(weight[module.masks[name]].min()) for name, weight in weights.items())
    assert border > max(float(weight[~module.masks[name]].max()) for name, weight in weights.items())


def test_each_layer_keeps_the_same_share_if_asked() -> None:
    module = network()
    squeezed(module, 75 + 183, criterion="magnitude", ranking="layer")
    assert {name: int(mask.sum()) for name, mask in module.masks.items()} == {
        "fc0.weight": 48,
        "fc1.weight": 120,
        "fc2.weight": 15,
    }


def test_no_layer_goes_wholly_unless_that_is_allowed() -> None:
    module = network()
    squeezed(module, DENSE - 480, criterion="of the tests", floor=0.1)
    assert int(module.masks["fc0.weight"].sum()) == 48
    module = network()
    squeezed(module, DENSE - 480, criterion="of the tests", floor=0.0)
    assert not module.masks["fc0.weight"].any()


def test_floors_that_keep_more_are_noted() -> None:
    outcome = squeezed(network(), 80, criterion="magnitude", floor=0.5)
    assert outcome.left == 75 + 240 + 600 + 75
    assert "floors" in outcome.note


def test_masks_of_before_stay() -> None:
    module = network()
    squeezed(module, 1200, criterion="random", seed=1)
    before = {name: mask.clone() for name, mask in module.masks.items()}
    outcome = squeezed(module, 600, criterion="magnitude")
    assert outcome.before == 1200 and left(module) == 600
    assert all(bool((module.masks[name] <= mask).all()) for name, mask in before.items())


def test_other_masks_of_before_stay_too() -> None:
    module = network()
    bias = torch.arange(40) > 9
    module.set_masks({"fc0.bias": bias})
    outcome = squeezed(module, 600, criterion="magnitude")
    assert outcome.before == DENSE - 10 and outcome.left == 600
    assert torch.equal(module.masks["fc0.bias"], bias)


def test_nothing_is_done_where_no_more_are_left() -> None:
    module = network()
    outcome = squeezed(module, DENSE, criterion="magnitude")
    assert not module.masks and outcome.left == DENSE and "nothing went" in outcome.note


def test_a_seed_decides_what_chance_takes() -> None:
    found = []
    for seed in (0, 0, 1):
        module = network()
        squeezed(module, 600, seed, criterion="random")
        found.append(module.masks["fc1.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_steps_follow_the_cubic_schedule_with_training_between() -> None:
    module, seen = network(), []

    def train(module: OnnxModule, step: int) -> None:
        seen.append((step, left(module)))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.1)

    squeezed(module, 500, train=train, criterion="magnitude", steps=4)
    assert [step for step, _ in seen] == [1, 2, 3]
    drops = [
        before - after for before, after in zip([DENSE, *(n for _, n in seen)], [n for _, n in seen], strict=False)
    ]
    assert drops == sorted(drops, reverse=True) and left(module) == 500


def test_movement_is_trained_before_its_first_step() -> None:
    module, steps = network(), []

    def train(module: OnnxModule, step: int) -> None:
        steps.append(step)
        with torch.no_grad():
            module.initializers["fc1.weight"].mul_(1.5)
            module.initializers["fc0.weight"].mul_(0.5)

    squeezed(module, DENSE - 480, train=train, criterion="movement", steps=2, floor=0.0)
    assert steps == [0, 1]
    assert not module.masks["fc0.weight"].any()
    with pytest.raises(UsageError, match="trained since the phase began"):
        squeezed(network(), 500, criterion="movement")


def test_the_mean_of_what_goes_is_folded_by_variance_alone() -> None:
    """On a constant input every variance is zero, so chance decides; the function stays all the same."""
    constant = torch.randn(1, 12, generator=torch.Generator().manual_seed(1)).expand(16, 12)
    for name, kept in (("variance", True), ("random", False)):
        module = network()
        before = module(constant).detach()
        settings = SqueezeSettings(criterion=name)
        outcome = squeeze(module, 600, settings, [constant], torch.Generator().manual_seed(0))
        assert torch.allclose(module(constant), before, rtol=1e-4, atol=1e-5) == kept
        assert outcome.folded == (3 if kept else 0)


def test_a_criterion_that_scores_another_shape_is_refused() -> None:
    @criterion("of rows in the tests")
    def rows(parameter: Tensor, context: CriterionContext) -> Tensor:
        return parameter.abs().sum(1)

    with pytest.raises(UsageError, match=r"of shape \[40\] for fc0.weight of shape \[40, 12\]"):
        squeezed(network(), 500, criterion="of rows in the tests")


@pytest.mark.parametrize(
    "settings",
    [
        {"criterion": "size"},
        {"weight_criterion": "units"},
        {"weights": 1.0},
        {"steps": 0},
        {"floor": 1.0},
        {"ranking": "rows"},
        {"finish_off": 2.0},
        {"cost": "bytes"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_followed_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SqueezeSettings(**settings)


def test_a_target_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot leave 0"):
        squeezed(network(), 0)
