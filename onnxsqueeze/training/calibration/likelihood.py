"""What a model's outputs mean: scores of classes, probabilities of classes, or the mean of a normal distribution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from onnxsqueeze.errors import UsageError

Likelihood = Literal["auto", "categorical", "probabilities", "gaussian"]

_NAMES = ("auto", "categorical", "probabilities", "gaussian")


def class_axis(outputs: Tensor) -> int:
    """Return the axis of the classes: the last of [N, C] and [N, T, C], the second of [N, C, H, W]."""
    return 1 if outputs.dim() >= 4 else outputs.dim() - 1


def resolved(likelihood: Likelihood, outputs: Tensor) -> Likelihood:
    """Return what ``"auto"`` stands for with these outputs: a vector or a matrix of one column is a regression.

    Raises:
        UsageError: when the name is none of those known.
    """
    if likelihood not in _NAMES:
        raise UsageError(f"there is no likelihood {likelihood!r}; choose one of {', '.join(_NAMES)}")
    if likelihood != "auto":
        return likelihood
    if outputs.dim() < 2 or outputs.shape[class_axis(outputs)] < 2:
        return "gaussian"
    total = outputs.detach().float().sum(class_axis(outputs))
    even = bool((outputs.detach() >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-3)
    return "probabilities" if even else "categorical"


def log_probabilities(outputs: Tensor, likelihood: Likelihood, temperature: float = 1.0) -> Tensor:
    """Return the logarithms of the classes' probabilities, classes last, at a temperature, in at least float32."""
    scores = outputs.movedim(class_axis(outputs), -1)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if likelihood == "probabilities":
        scores = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return functional.log_softmax(scores / temperature, dim=-1)


def sampled_loss(outputs: Tensor, likelihood: Likelihood, generator: torch.Generator) -> Tensor:
    """Return the mean loss against labels that are drawn from the outputs' own distribution.

    Its gradient is zero on average, and its square is the diagonal of the Fisher information (Amari): how much the
    outputs' distribution moves with a weight. True labels would add how wrong the model is.
    """
    kind = resolved(likelihood, outputs)
    if kind == "gaussian":
        noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float32).to(outputs.device)
        return 0.5 * (outputs.float() - (outputs.detach().float() + noise)).square().flatten(1).sum(1).mean()
    scores = log_probabilities(outputs, kind).flatten(0, -2)
    drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(outputs.device)
    return -scores.gather(1, drawn).mean()
