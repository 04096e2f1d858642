"""Hidden units, dims of heads and whole heads leave the blocks of real networks."""

from __future__ import annotations

import pytest

from tests.support.blocks.cases import BLOCKS
from tests.support.blocks.exporting import OLDER, OLDER_FUSED
from tests.support.blocks.planting import DEAD, DIFFERENT, FOLLOWS, ZERO, Spare
from tests.support.blocks.recovering import assert_block_recovers

ALL = sorted(BLOCKS)
SEPARATE = [name for name in ALL if name not in ("convnext", "gpt2", "llama")]
"""Attention with a projection each for queries, keys and values, and no rotation."""


@pytest.mark.parametrize("kind", [DEAD, DIFFERENT])
@pytest.mark.parametrize("name", ALL)
def test_hidden_units(name: str, kind: str) -> None:
    assert_block_recovers(name, OLDER_FUSED, hidden=Spare(7, kind))


@pytest.mark.parametrize("name", SEPARATE)
def test_dims_of_queries(name: str) -> None:
    """They are zero, whatever the keys are there."""
    assert_block_recovers(name, OLDER, q=Spare(2, ZERO), k=Spare(2, FOLLOWS))


@pytest.mark.parametrize("name", SEPARATE)
def test_dims_of_keys(name: str) -> None:
    """They are the same for all keys, so that they add one number to all scores of a query, which softmax cancels."""
    assert_block_recovers(name, OLDER, k=Spare(2, DIFFERENT), q=Spare(2, FOLLOWS))


@pytest.mark.parametrize("kind", [DEAD, DIFFERENT])
@pytest.mark.parametrize("name", SEPARATE)
def test_dims_of_values(name: str, kind: str) -> None:
    assert_block_recovers(name, OLDER, v=Spare(2, kind))


@pytest.mark.parametrize("name", [name for name in ALL if "heads" in BLOCKS[name].axes and name != "llama"])
def test_whole_heads(name: str) -> None:
    assert_block_recovers(name, OLDER_FUSED, heads=Spare(2, DEAD))


@pytest.mark.parametrize("kind", [ZERO, DIFFERENT])
def test_dims_of_a_fused_projection(kind: str) -> None:
    """One layer makes queries, keys and values, which lose the same dims, as each part of it is constant there."""
    spare = Spare(2, kind)
    assert_block_recovers("gpt2", OLDER_FUSED, v=spare, q=Spare(2, FOLLOWS), k=Spare(2, FOLLOWS))


def test_rotary_pairs() -> None:
    assert_block_recovers("llama", OLDER_FUSED, k=Spare(2, ZERO), q=Spare(2, FOLLOWS))


def test_shared_values() -> None:
    assert_block_recovers("llama", OLDER_FUSED, o=Spare(2, DEAD), v=Spare(2, FOLLOWS))


def test_groups_of_heads() -> None:
    assert_block_recovers("llama", OLDER_FUSED, groups=Spare(1, DEAD))
