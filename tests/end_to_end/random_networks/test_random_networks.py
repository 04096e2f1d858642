"""Networks of random layers keep their function, whatever the mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxsqueeze as sq
from tests.end_to_end.random_networks.generator import RandomNetwork, random_network
from tests.support.extent import part
from tests.support.planted.checks import (
    DOUBLE,
    assert_equal_outputs,
    assert_untouched_contract,
    deviation,
    draw,
    in_double,
    minimize,
    size,
    weights,
)

SEEDS = range(part(150))
ROUNDED = range(150, 150 + part(30))

TOLERANCE: dict[Any, float] = {np.float32: 1e-4, np.float16: 5e-2}
"""Largest deviation relative to the output's scale. Up to ten layers each sum up to some hundred products, rounded by
6e-8 in float32 and 5e-4 in float16; gates, squares and outputs that nearly cancel multiply what comes of it."""


@pytest.mark.parametrize("seed", SEEDS)
def test_the_smallest_network_has_the_same_function(seed: int) -> None:
    network = random_network(seed)
    assert_same_function(network, minimize(network.model).model)


@pytest.mark.parametrize("seed", ROUNDED)
def test_a_rounded_network_has_the_same_function(seed: int) -> None:
    network = random_network(seed)
    before = network.model.SerializeToString(deterministic=True)
    result = sq.minimize(network.model, verify=False)
    assert_untouched_contract(network.model, result, before)
    assert_same_function(network, result.model)


def test_most_networks_become_smaller_and_hardly_any_twice() -> None:
    """Half of the layers are masked, and two thirds of these masks leave whole units or inputs empty.

    What was removed can leave less to be kept: a layer of one group left needs no equal groups, a depthwise convolution
    of one channel left can lose that unit, and what was kept equal for a node that went need not be. In a network of
    which little is left, a tensor that a gathered channel stood for may turn out not to be read any more.
    """
    models = [random_network(seed).model for seed in SEEDS]
    once = [minimize(model).model for model in models]
    twice = [minimize(model).model for model in once]
    smaller = [size(after) < size(before) for before, after in zip(models, once, strict=True)]
    again = [weights(after) != weights(before) for before, after in zip(once, twice, strict=True)]
    assert sum(smaller) >= 0.6 * len(SEEDS)
    assert sum(again) <= 0.05 * len(SEEDS)


def assert_same_function(network: RandomNetwork, minimized: onnx.ModelProto) -> None:
    """Compare both models at both sizes of their inputs: in onnxruntime, or if it has no kernels for it, in float64."""
    if network.dtype is not np.float64:
        tolerance = TOLERANCE[network.dtype]
        assert_equal_outputs(network.model, minimized, extents=network.extents, tolerance=tolerance, double=False)
        return
    for batch, extent in zip((1, 3), network.extents, strict=True):
        feeds = draw(network.model, batch, extent)
        assert deviation(in_double(network.model, feeds), in_double(minimized, feeds)) <= DOUBLE
