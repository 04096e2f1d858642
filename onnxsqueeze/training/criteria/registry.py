"""The registry of criteria: a criterion is one small function that scores each element of a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from onnxsqueeze.errors import UsageError

if TYPE_CHECKING:
    from onnxsqueeze.training.criteria.evidence import CriterionContext

Score = Callable[[Tensor, "CriterionContext"], Tensor]
Ranking = Literal["global", "layer"]

UNITS = "units"
"""The criterion that removes whole units by what their loss would cost. It scores no weights; see `squeeze`."""


@dataclass(frozen=True)
class Criterion:
    """A way to choose the weights that go.

    Attributes:
        name: what a user calls it.
        score: from a weight and its context a tensor of the same shape; what has the lower score goes first.
        ranking: "global" if scores of different tensors compare, "layer" if each tensor gives the same share.
        folds_mean: whether the mean of what goes is added to the bias of the layer.
        needs_training: whether the score says nothing before the weights have been trained.
    """

    name: str
    score: Score
    ranking: Ranking = "global"
    folds_mean: bool = False
    needs_training: bool = False


_CRITERIA: dict[str, Criterion] = {}


def criterion(
    name: str, *, ranking: Ranking = "global", folds_mean: bool = False, needs_training: bool = False
) -> Callable[[Score], Score]:
    """Register the decorated function as a criterion, by which a squeeze can then be told to choose.

    ::

        @criterion("small_gradients", ranking="layer")
        def small_gradients(parameter, context):
            return context.gradient.abs()

    Raises:
        UsageError: when another function has that name already.
    """

    def add(score: Score) -> Score:
        known = _CRITERIA.get(name)
        same = known is not None and (known.score.__module__, known.score.__qualname__) == (
            score.__module__,
            score.__qualname__,
        )
        if name == UNITS or (known is not None and not same):
            raise UsageError(f"there is a criterion {name!r} already; choose another name")
        _CRITERIA[name] = Criterion(name, score, ranking, folds_mean, needs_training)
        return score

    return add


def criterion_named(name: str) -> Criterion:
    """Return a registered criterion.

    Raises:
        UsageError: when there is none of that name.
    """
    if name not in _CRITERIA:
        raise UsageError(f"there is no criterion {name!r}; choose one of {', '.join(criteria_names())}")
    return _CRITERIA[name]


def criteria_names() -> list[str]:
    """Return the names of all criteria, that of the units first."""
    return [UNITS, *sorted(_CRITERIA)]
