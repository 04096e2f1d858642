"""From very narrow blocks to wide ones, in float16, and every kind of unit at once, by both exporters."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.blocks.cases import BLOCKS
from tests.support.blocks.exporting import NEWER, OLDER_FUSED
from tests.support.blocks.planting import DEAD, DIFFERENT, EQUAL, FOLLOWS, ZERO, Axis, Spare
from tests.support.blocks.recovering import assert_block_recovers

ATTENTION = {
    "hidden": Spare(5, DIFFERENT),
    "heads": Spare(1, DEAD),
    "q": Spare(1, FOLLOWS),
    "k": Spare(1, DIFFERENT),
    "v": Spare(1, DIFFERENT),
}
GROUPED = {
    "hidden": Spare(5, ZERO),
    "groups": Spare(1, DEAD),
    "q": Spare(2, FOLLOWS),
    "k": Spare(2, ZERO),
    "v": Spare(1, FOLLOWS),
    "o": Spare(1, DEAD),
}
UNITS: Mapping[str, Mapping[str, Spare]] = {
    "convnext": {"hidden": Spare(5, DIFFERENT)},
    "gpt2": {"hidden": Spare(5, DIFFERENT), "heads": Spare(1, DEAD)},
    "llama": GROUPED,
}


def check(name: str, exporter: str, kind: str, width: int, count: int, half: bool = False) -> None:
    """Remove ``count`` channels of the stream, and every other kind of unit, so that ``width`` channels are left."""
    block = BLOCKS[name]
    stay = block.stay[kind]
    axes = {**block.axes, "stream": Axis(width - stay)}
    spares = {"stream": Spare(count + stay, kind, stay=stay), **UNITS.get(name, ATTENTION)}
    assert_block_recovers(name, exporter, axes, half, **spares)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_narrow(name: str) -> None:
    check(name, OLDER_FUSED, DIFFERENT, 4, 4)


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("convnext", ZERO, 50),
        ("prenorm", DIFFERENT, 2096),
        ("bert", EQUAL, 50),
        ("llama", ZERO, 2048),
        ("t5", EQUAL, 3),
    ],
)
def test_wide(name: str, kind: str, count: int) -> None:
    check(name, OLDER_FUSED, kind, 4096 - count, count)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_half_precision(name: str) -> None:
    check(name, OLDER_FUSED, DIFFERENT, 12, 5, half=True)


@pytest.mark.parametrize("name", ["convnext", "clip", "gpt2", "llama", "t5"])
def test_as_the_newer_exporter_writes_it(name: str) -> None:
    check(name, NEWER, EQUAL, 12, 5)
