"""Each criterion of single weights against a case that can be computed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.criteria import CriterionContext, Evidence, criterion_named
from onnxsqueeze.training.criteria.evidence import Losses
from onnxsqueeze.training.module import OnnxModule, from_onnx
from tests.support.training.graphs import layer, perceptron

WEIGHT = np.array([[1.0, -2.0, 0.5], [0.0, 4.0, -1.0]])
BATCH = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, -2.0], [2.0, 1.0, 4.0], [2.0, 1.0, -4.0]])
# Means 2, 1/2, 0; mean squares 18/4, 2/4, 40/4; variances 1/2, 1/4, 10.


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores(
    name: str,
    module: OnnxModule,
    batches: Iterable[Tensor] = (BATCH,),
    losses: Losses | None = None,
    start: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Tensor:
    evidence = Evidence(module, batches, generator(seed), losses=losses, start=start)
    return criterion_named(name).score(evidence.weight("w"), CriterionContext("w", evidence))


def test_magnitude_is_the_absolute_value() -> None:
    expected = [[1.0, 2.0, 0.5], [0.0, 4.0, 1.0]]
    torch.testing.assert_close(scores("magnitude", layer(WEIGHT)), torch.tensor(expected))


def test_random_is_drawn_from_the_generator_alone() -> None:
    one, same = scores("random", layer(WEIGHT)), scores("random", layer(WEIGHT + 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, scores("random", layer(WEIGHT), seed=1))


def test_wanda_multiplies_by_the_root_mean_square_of_the_input() -> None:
    norms = np.sqrt([18 / 4, 2 / 4, 40 / 4])
    expected = torch.tensor(np.abs(WEIGHT) * norms, dtype=torch.float32)
    torch.testing.assert_close(scores("wanda", layer(WEIGHT)), expected)
    torch.testing.assert_close(scores("wanda", layer(WEIGHT), BATCH.split(1)), expected)


def test_variance_multiplies_the_square_by_the_variance_of_the_input() -> None:
    expected = torch.tensor(WEIGHT**2 * [0.5, 0.25, 10.0], dtype=torch.float32)
    torch.testing.assert_close(scores("variance", layer(WEIGHT)), expected)


def test_taylor_averages_the_absolute_gradients_of_the_users_loss() -> None:
    """The loss ±y gives the gradient ±x: its mean vanishes, the mean of its absolute value does not."""

    def losses(module: nn.Module) -> Iterable[Tensor]:
        yield module(BATCH[:1]).sum()
        yield -module(BATCH[:1]).sum()
        yield 2 * module(BATCH[:1]).sum()

    gradient = 4 / 3 * BATCH[0]
    expected = torch.tensor(WEIGHT, dtype=torch.float32).abs() * gradient
    torch.testing.assert_close(scores("taylor", layer(WEIGHT), losses=losses), expected)
    evidence = Evidence(layer(WEIGHT), [], generator(), losses=losses)
    torch.testing.assert_close(CriterionContext("w", evidence).gradient[0], 2 / 3 * BATCH[0])


def test_taylor_without_labels_estimates_the_fisher_information() -> None:
    """Of one logistic unit it is p (1 - p) x²; the mean absolute gradient over single samples is 2 p (1 - p) |x|."""
    weight = np.array([[0.3, -0.5], [0.0, 0.0]])
    sample = torch.tensor([[1.0, 2.0]])
    p = 1 / (1 + np.exp(-(0.3 - 1.0)))
    measured = scores("taylor", layer(weight), [sample] * 500)
    expected = np.abs(weight) * 2 * p * (1 - p) * np.array([1.0, 2.0])
    np.testing.assert_allclose(measured.numpy(), expected, rtol=0.06)


def test_taylor_takes_gradients_of_frozen_weights_and_leaves_them_frozen() -> None:
    module = layer(WEIGHT)
    module.initializers["w"].requires_grad_(False)
    assert float(scores("taylor", module).sum()) > 0
    assert not module.initializers["w"].requires_grad
    assert module.initializers["w"].grad is None


def test_movement_is_half_of_the_growth_of_the_square() -> None:
    module = layer(WEIGHT)
    start = {"w": torch.tensor([[2.0, -1.0, 0.5], [1.0, -4.0, -1.5]])}
    expected = torch.tensor([[-1.5, 1.5, 0.0], [-0.5, 0.0, -0.625]])
    torch.testing.assert_close(scores("movement", module, start=start), expected)


def test_movement_is_what_gradient_descent_accumulates() -> None:
    """The sum over the steps of -lr w dL/dw, with the start that the module itself knows."""
    module = layer(WEIGHT, np.zeros(2))
    weight = module.initializers["w"]
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    accumulated = torch.zeros_like(weight)
    goal = BATCH @ torch.tensor([[0.5, 1.0], [1.0, 1.0], [-1.0, 2.0]])
    for _ in range(200):
        optimizer.zero_grad()
        (module(BATCH) - goal).square().mean().backward()
        assert weight.grad is not None
        accumulated -= 1e-3 * weight.detach() * weight.grad
        optimizer.step()
    torch.testing.assert_close(scores("movement", module), accumulated, rtol=0.05, atol=1e-3)


def test_movement_without_training_says_so() -> None:
    with pytest.raises(UsageError, match="trained since the phase began"):
        scores("movement", layer(WEIGHT))


def test_a_start_of_another_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"start of w has the shape \[2, 4\], the weight \[2, 3\]"):
        scores("movement", layer(WEIGHT), start={"w": torch.ones(2, 4)})


def test_masked_weights_are_seen_as_zeros() -> None:
    module = layer(WEIGHT)
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[0, 1] = False
    module.set_masks({"w": mask})
    assert scores("magnitude", module)[0, 1] == 0


def test_measuring_leaves_modes_and_gradients_alone() -> None:
    module = from_onnx(perceptron([3, 4, 2]))
    module.train()
    evidence = Evidence(module, [BATCH], generator())
    assert evidence.gradients and evidence.moments
    assert module.training and all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("batch", [(BATCH, BATCH), {"z": BATCH}], ids=["labels", "name"])
def test_a_batch_with_other_than_the_inputs_is_refused(batch: object) -> None:
    with pytest.raises(UsageError, match="one tensor for each of the inputs x"):
        scores("wanda", layer(WEIGHT), [batch])  # type: ignore[list-item]


def test_no_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="no calibration batch"):
        scores("wanda", layer(WEIGHT), [])
