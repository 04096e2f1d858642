"""Networks of random layers on streams of tokens keep their function, whatever the mask."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxsqueeze as sq
from tests.end_to_end.random_networks.test_random_networks import TOLERANCE
from tests.end_to_end.random_networks.token_generator import RandomTokenNetwork, random_token_network
from tests.support.extent import part
from tests.support.planted.checks import assert_untouched_contract, deviation, loaded, signature, size

FORMS = ("stock", "function", "primitives")
SEEDS = range(part(90))
ROUNDED = range(90, 90 + part(10))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_smallest_network_has_the_same_function_and_so_has_the_next(seed: int) -> None:
    """What was written is read again: forms of normalisations, tables, and all that stands in for constants."""
    network, form = random_token_network(seed), FORMS[seed % len(FORMS)]
    once = sq.minimize(network.model, round_to=1, layernorm=form, verify=False).model
    twice = sq.minimize(once, round_to=1, layernorm=form, verify=False).model
    for before, after in ((network.model, once), (once, twice)):
        onnx.checker.check_model(after, full_check=True)
        assert signature(after) == signature(before)
        assert size(after) <= size(before)
    assert_same_function(network, once, twice)


@pytest.mark.parametrize("seed", ROUNDED)
def test_a_rounded_network_has_the_same_function(seed: int) -> None:
    network = random_token_network(seed)
    before = network.model.SerializeToString(deterministic=True)
    result = sq.minimize(network.model, verify=False)
    assert_untouched_contract(network.model, result, before)
    assert_same_function(network, result.model)


def test_most_networks_become_smaller() -> None:
    """A third of the layers are masked, and most streams lack channels."""
    models = [random_token_network(seed).model for seed in SEEDS[::2]]
    minimized = [sq.minimize(model, round_to=1, verify=False).model for model in models]
    smaller = [size(after) < size(before) for before, after in zip(models, minimized, strict=True)]
    assert sum(smaller) >= 0.6 * len(models)


def assert_same_function(network: RandomTokenNetwork, *minimized: onnx.ModelProto) -> None:
    """Compare at both sizes of the inputs, optimized and not.

    In float16, nodes that onnxruntime fuses round less often than those that it does not, and a small deviation of a
    norm's input can make a large one of its output; what this does to the original is allowed.
    """
    (plain_run, *plain_runs), (fused_run, *fused_runs) = (
        [loaded(model, optimized) for model in (network.model, *minimized)] for optimized in (False, True)
    )
    for feeds in network.feeds:
        plain, fused = plain_run(feeds), fused_run(feeds)
        allowed = max(TOLERANCE[network.dtype], 4 * deviation(plain, fused) * (network.dtype is np.float16))
        for expected, runs in ((plain, plain_runs), (fused, fused_runs)):
            assert all(deviation(expected, run(feeds)) <= allowed for run in runs)
