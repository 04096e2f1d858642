"""The criteria that score single weights. What has the lower score goes first."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.criteria.evidence import CriterionContext
from onnxsqueeze.training.criteria.registry import criterion


@criterion("magnitude")
def magnitude(parameter: Tensor, context: CriterionContext) -> Tensor:
    """Large weights stay (Han et al., 2015)."""
    return parameter.abs()


@criterion("random")
def random(parameter: Tensor, context: CriterionContext) -> Tensor:
    """Chance decides: what every other criterion has to beat."""
    return torch.rand(parameter.shape, generator=context.generator).to(parameter.device)


@criterion("movement", needs_training=True)
def movement(parameter: Tensor, context: CriterionContext) -> Tensor:
    """Weights that training moved away from zero stay, those that it moved towards zero go (Sanh et al., 2020).

    Their score is the sum of -w dL/dw over the steps of training. Under gradient descent this is the sum of w Δw, the
    integral of w dw along the path up to the learning rate, and so half of the growth of w², whatever the path was.
    This form needs no hook in a user's loop, and gradient scaling, accumulation and resuming leave it right.
    """
    grown = (parameter.square() - context.start.square()) / 2
    if not context.trained:
        raise UsageError(
            "the criterion 'movement' needs weights that were trained since the phase began, and these were not; "
            "train first, or give the values to compare with as start="
        )
    return grown


@criterion("taylor")
def taylor(parameter: Tensor, context: CriterionContext) -> Tensor:
    """The first-order change of the loss |w dL/dw| (SNIP, Lee et al., 2019; Molchanov et al., 2017).

    The mean over small batches is of the absolute values: with labels drawn from the model, the mean gradient is zero.
    """
    return parameter.abs() * context.absolute_gradient


@criterion("wanda", ranking="layer")
def wanda(parameter: Tensor, context: CriterionContext) -> Tensor:
    """|w| times the norm of the activations that it multiplies (Sun et al., 2024)."""
    return parameter.abs() * context.input_norm


@criterion("variance", folds_mean=True)
def variance(parameter: Tensor, context: CriterionContext) -> Tensor:
    """The variance that a weight passes on, w² Var(x). Its mean w E(x) does not count: a bias can stand for it."""
    return parameter.square() * context.input_variance
