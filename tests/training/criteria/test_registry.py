"""The registry: what ships, what users add, what is refused."""

from __future__ import annotations

import pytest
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.criteria import UNITS, CriterionContext, criteria_names, criterion, criterion_named


def test_all_criteria_that_ship_are_there() -> None:
    wanted = {UNITS, "magnitude", "random", "movement", "taylor", "wanda", "variance"}
    assert wanted <= set(criteria_names())
    assert criterion_named("variance").folds_mean and not criterion_named("magnitude").folds_mean
    assert criterion_named("movement").needs_training


def test_a_name_that_is_not_known_lists_those_that_are() -> None:
    with pytest.raises(UsageError, match="no criterion 'size'; choose one of units, .*magnitude"):
        criterion_named("size")


@pytest.mark.parametrize("name", [UNITS, "magnitude"])
def test_a_name_is_given_once(name: str) -> None:
    def other(parameter: Tensor, context: CriterionContext) -> Tensor:
        return parameter

    with pytest.raises(UsageError, match="already"):
        criterion(name)(other)
    assert name == UNITS or criterion_named(name).score is not other
