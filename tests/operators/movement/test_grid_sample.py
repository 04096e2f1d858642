"""Planted channels in an image that GridSample reads."""

from __future__ import annotations

import pytest

from tests.support.builders import Pair
from tests.support.planted.checks import assert_recovers
from tests.support.planted.layers import Twin


def sampled(mode: str, padding: str, const: int) -> Pair:
    twin = Twin(seed=0, opset=20)
    units = twin.units(live=4, dead=3, zero=2, const=const)
    x = twin.relu(twin.conv(twin.input(1, 3, "H", "W"), units, kernel=1))
    grid = twin.parameter(twin.random.uniform(-1.5, 1.5, (1, 6, 7, 2)))
    x = twin.op("GridSample", x, grid, mode=mode, padding_mode=padding)
    return twin.pair(twin.conv(x, twin.units(live=2), kernel=1))


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode: str, padding: str) -> None:
    """A constant stays one unless there are zeros beside it, or weights that may add up to anything."""
    varies = padding == "zeros" or mode == "cubic"
    assert_recovers(sampled(mode, padding, const=0 if varies else 2))
