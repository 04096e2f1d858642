"""Units that are chosen at random leave when their masks are burnt in, and leave as much as was predicted."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load
from onnxsqueeze.training.units import Floors, select
from onnxsqueeze.units.discovery import units_of
from tests.training.units.removing import minimized, model, random_scores, without

NETWORKS = (
    "mlp",
    "resnet",
    "efficientnet",
    "LSTM",
    "convnext",
    "vit",
    "fused",
    "gpt2",
    "llama",
    "t5",
)
SCALARS = 8
"""Numbers that the minimized model stores in excess, such as the epsilon of a norm that became another."""


@pytest.mark.parametrize("name", NETWORKS)
def test_units_leave_as_predicted(name: str) -> None:
    source = model(name)
    units = units_of(load(source))
    removed = select(units, random_scores(units, 1), 0.35 * units.elements)
    assert removed.any()
    left = weight_elements(minimized(without(source, units, removed)))
    assert units.left(removed, standing=False) - SCALARS <= left <= units.left(removed) + SCALARS
    assert units.left(removed) <= 0.35 * units.elements


@pytest.mark.parametrize("name", ["regnet", "gpt2"])
def test_each_kind_leaves_alone(name: str) -> None:
    source = model(name)
    units = units_of(load(source))
    for kind in dict.fromkeys(units.kinds):
        scores = np.where(units.of_kind(kind), random_scores(units, 2), np.inf)
        removed = select(units, scores, 1, floors=Floors(units=3))
        assert removed.any(), kind
        assert units.of_kind(kind)[removed].all()
        left = weight_elements(minimized(without(source, units, removed), verify=False))
        assert units.left(removed, standing=False) - SCALARS <= left <= units.left(removed) + SCALARS, kind
        assert left < units.elements


def test_what_is_removed_costs_what_is_saved() -> None:
    """The elements that hang on one unit are those that leave with it."""
    source = model("resnet")
    units = units_of(load(source))
    cost = units.cost("parameters")
    for unit in range(0, len(units), 7):
        removed = np.arange(len(units)) == unit
        assert units.elements - units.left(removed) == pytest.approx(cost[unit], rel=0.05)
        assert units.cost("parameters", removed)[unit] == 0
