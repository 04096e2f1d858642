"""Hidden units leave LSTM, GRU and RNN with all of their gates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.blocks.exporting import NEWER, OLDER_FUSED
from tests.support.blocks.networks import FEATURES
from tests.support.blocks.planting import DEAD, ZERO
from tests.support.blocks.recovering import assert_recovers, matrices
from tests.support.blocks.recurrent import GATES, plant

KINDS = sorted(GATES, key=lambda kind: kind.__name__)


def samples(*times: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2 - turn, time, FEATURES, generator=generator) for turn, time in enumerate(times))


def check(kind: type[nn.RNNBase], unit: str, both_ways: bool, exporter: str, times: tuple[int, int]) -> None:
    inputs, dynamic = samples(*times), (1,) if exporter == OLDER_FUSED else ()
    small = matrices(plant(kind, unit, 6, 0, both_ways), inputs[0], dynamic)
    assert_recovers(plant(kind, unit, 6, 3, both_ways), small, inputs, exporter, dynamic)


@pytest.mark.parametrize("both_ways", [False, True], ids=["forward", "both-ways"])
@pytest.mark.parametrize("unit", [DEAD, ZERO])
@pytest.mark.parametrize("kind", KINDS)
def test_units(kind: type[nn.RNNBase], unit: str, both_ways: bool) -> None:
    check(kind, unit, both_ways, OLDER_FUSED, (9, 5))


def test_units_as_the_newer_exporter_writes_them() -> None:
    check(nn.LSTM, DEAD, False, NEWER, (9, 9))
