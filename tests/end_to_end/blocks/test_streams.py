"""Channels of a residual stream that are constant everywhere leave it, through its norms; few stay to stand for all."""

from __future__ import annotations

import pytest

from tests.support.blocks.cases import BLOCKS, LAYER_NORM
from tests.support.blocks.exporting import OLDER, OLDER_FUSED
from tests.support.blocks.planting import DIFFERENT, EQUAL, ZERO, Spare
from tests.support.blocks.recovering import assert_block_recovers

ALL = sorted(BLOCKS)


def stream(name: str, kind: str, gone: int, read: bool = True) -> Spare:
    """Constant channels of which ``gone`` leave; if nobody reads them, an RMSNorm needs none to stand for them."""
    stay = BLOCKS[name].stay[kind] if read or BLOCKS[name].stay is LAYER_NORM else 0
    return Spare(gone + stay, kind, read, stay)


@pytest.mark.parametrize(("kind", "gone"), [(ZERO, 2), (EQUAL, 3), (DIFFERENT, 50)])
@pytest.mark.parametrize("name", ALL)
def test_constants_that_are_read(name: str, kind: str, gone: int) -> None:
    assert_block_recovers(name, OLDER_FUSED, stream=stream(name, kind, gone))


@pytest.mark.parametrize("name", ALL)
def test_constants_that_nobody_reads(name: str) -> None:
    """The columns of all readers are zero; the norms see the constants all the same."""
    assert_block_recovers(name, OLDER_FUSED, stream=stream(name, DIFFERENT, 3, read=False))


@pytest.mark.parametrize("kind", [ZERO, DIFFERENT])
@pytest.mark.parametrize("name", ALL)
def test_norms_that_are_spelt_out(name: str, kind: str) -> None:
    """Before opset 17 there is no LayerNormalization."""
    assert_block_recovers(name, OLDER, stream=stream(name, kind, 3))
