"""Masks of every kind become exact zeros under the parameters' own names, and the module stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import onnxsqueeze as sq
from onnxsqueeze.training.export.export import export_masked
from tests.training.export.checks import assert_equal, carried_out, evaluated, exported, metadata, snapshot, stored
from tests.training.export.networks import Convolutions, Shared, mlp


class Halved(nn.Module):
    """A parametrization that sets every other row to zero."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight."""
        return weight * (torch.arange(len(weight)) % 2)[:, None]


class MaskedLinear(nn.Module):
    """A layer whose mask is a buffer that its forward multiplies by."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 8))
        mask = torch.ones(16, 8)
        mask[:8] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        return nn.functional.linear(x, self.weight * self.mask)


def test_prune_masks_are_burnt_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = mlp()
    prune.random_unstructured(module[0], "weight", 0.5)
    prune.ln_structured(module[0], "weight", 0.25, 2, 0)
    prune.l1_unstructured(module[2][0], "bias", 0.5)
    expected = {"0.weight": module[0].weight, "2.0.bias": module[2][0].bias, "2.0.weight": module[2][0].weight}
    x = torch.randn(3, 8)
    model = exported(module, x, tmp_path)
    arrays = stored(model)
    assert set(arrays) == set(mlp().state_dict())
    for name, tensor in expected.items():
        np.testing.assert_array_equal(arrays[name], tensor.detach().numpy())
    assert (arrays["0.weight"] == 0).mean() > 0.5
    assert prune.is_pruned(module) and isinstance(module[0].weight_orig, nn.Parameter)
    assert metadata(model, "frozen") == []
    with torch.no_grad():
        assert_equal(model, module, {"input": x}, [module(x)])


def test_module_that_has_run_with_gradients_is_exported() -> None:
    """The computed weight is then no leaf, and torch does not copy such a tensor."""
    module = mlp().train()
    prune.random_unstructured(module[0], "weight", 0.5)
    module(torch.randn(2, 8)).sum().backward()
    gradient = module[0].weight_orig.grad.clone()
    arrays = carried_out(module)
    np.testing.assert_array_equal(arrays["0.weight"], module[0].weight.detach().numpy())
    assert torch.equal(module[0].weight_orig.grad, gradient)


def test_mask_of_a_tied_table_is_of_one_of_its_users_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, tokens = Shared(), torch.randint(0, 9, (2, 5))
    prune.random_unstructured(module.head, "weight", 0.5)
    parametrize.register_parametrization(module.layer, "weight", Halved())
    model = exported(module, tokens, tmp_path)
    arrays = stored(model)
    assert (arrays["head.weight"] == 0).mean() == 0.5 and arrays["table.weight"].all()
    with torch.no_grad():
        assert_equal(model, module, {"tokens": tokens}, [module(tokens)])


def test_removed_pruning_is_exported_as_it_is() -> None:
    module = mlp()
    prune.ln_structured(module[0], "weight", 0.5, 2, 0)
    prune.remove(module[0], "weight")
    arrays = carried_out(module)
    assert (arrays["0.weight"] == 0).all(1).sum() == 8


def test_parametrizations_are_carried_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = mlp()
    parametrize.register_parametrization(module[0], "weight", Halved())
    parametrizations.weight_norm(module[2][0])
    parametrizations.spectral_norm(module[3])
    x = torch.randn(3, 8)
    model = exported(module, x, tmp_path)
    arrays = stored(model)
    assert set(arrays) == set(mlp().state_dict())
    assert (arrays["0.weight"][::2] == 0).all() and arrays["0.weight"][1::2].all()
    assert metadata(model, "frozen") == []
    assert_equal(model, module, {"input": x}, [evaluated(module, x)])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_older_norms_of_weights_are_carried_out() -> None:
    module = mlp()
    nn.utils.weight_norm(module[0])
    nn.utils.spectral_norm(module[3])
    module(torch.randn(2, 8))
    arrays = carried_out(module)
    assert set(arrays) == set(mlp().state_dict())
    np.testing.assert_allclose(arrays["0.weight"], module[0].weight.detach().numpy(), rtol=1e-6)


def test_structured_pruning_shrinks_a_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Convolutions()
    prune.ln_structured(module.first, "weight", 0.5, 2, 0)
    prune.ln_structured(module.second, "weight", 0.5, 2, 0)
    module(torch.randn(8, 3, 9, 9))  # moves the statistics
    images = torch.randn(2, 3, 9, 9)
    model = exported(module, images, tmp_path)
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 1
    np.testing.assert_array_equal(stored(model)["norm.running_mean"], module.norm.running_mean.numpy())
    result = sq.minimize(tmp_path / "masked.onnx", round_to=1)
    weights = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    # One of the constant channels in front of a zero-padded convolution would stay; this one is not padded.
    assert weights["first.weight"][:2] == [8, 3] and weights["second.weight"][:2] == [6, 8]
    assert weights["head.weight"] == [5, 6]
    assert result.report.ratio > 2.5
    assert_equal(result.model, module, {"images": images}, [evaluated_pruned(module, images)])


def evaluated_pruned(module: nn.Module, x: Tensor) -> Tensor:
    """Run a pruned module in evaluation mode, which torch cannot copy, and put it back."""
    module.eval()
    with torch.no_grad():
        found: Tensor = module(x)
    module.train()
    return found


def test_mask_that_is_a_buffer_shrinks_a_network(tmp_path: Path) -> None:
    module = nn.Sequential(MaskedLinear(), nn.ReLU(), nn.Linear(16, 4))
    model = exported(module, torch.randn(2, 8), tmp_path)
    assert metadata(model, "frozen") == ["0.mask"]
    result = sq.minimize(model, round_to=1)
    assert [4, 8] in [list(tensor.dims) for tensor in result.model.graph.initializer]


def test_hooks_stay_and_those_that_only_watch_are_not_exported(tmp_path: Path) -> None:
    seen: list[Any] = []
    module = mlp()
    module[1].register_forward_hook(lambda part, inputs, output: seen.append(output.detach().numpy().copy()))
    module.register_forward_pre_hook(lambda part, inputs: (inputs[0] * 2,))
    module[0].register_full_backward_hook(lambda part, inputs, outputs: None)
    x = torch.randn(2, 8)
    model = exported(module, x, tmp_path)
    fired = len(seen)
    with torch.no_grad():
        assert_equal(model, module, {"input": x}, [module(x)])
    assert len(seen) == fired + 1


def test_hook_that_writes_in_place_is_exported(tmp_path: Path) -> None:
    module = mlp()

    def triple(part: nn.Module, inputs: Any, output: Tensor) -> None:
        output.mul_(3)

    module[0].register_forward_hook(triple)
    x = torch.randn(1, 8)
    model = exported(module, x, tmp_path)
    with torch.no_grad():
        assert_equal(model, module, {"input": x}, [module(x)])


def test_hook_that_holds_what_cannot_be_copied_is_no_obstacle() -> None:
    class Holder:
        def __init__(self) -> None:
            self.generator = (number for number in range(3))  # cannot be copied

        def hook(self, part: nn.Module, inputs: Any) -> None:
            pass

    module = mlp()
    module.register_forward_pre_hook(Holder().hook)
    assert carried_out(module)


def test_module_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    module = mlp()
    module.numbers = (number for number in range(3))  # type: ignore[assignment]
    x = torch.randn(2, 8)
    before = snapshot(module)
    with pytest.raises(sq.UsageError, match="module Sequential cannot be copied: cannot pickle 'generator'"):
        export_masked(module, x, tmp_path / "x.onnx")
    assert snapshot(module) == before


def test_wrappers_are_taken_off() -> None:
    module = mlp()
    arrays = carried_out(nn.DataParallel(module))
    assert set(arrays) == set(module.state_dict())
