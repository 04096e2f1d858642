"""Random graphs, each as it is and in one variation; `python tools/fuzz/fuzz_structure.py` checks all variations."""

from __future__ import annotations

import pytest

from tools.fuzz.checking import NAMES, judged

GRAPHS, PER_TEST = 300, 20


@pytest.mark.parametrize("first", range(0, GRAPHS, PER_TEST))
def test_random_graphs_come_out_as_they_must(first: int) -> None:
    """The same outputs, no more elements, no more bytes, nothing left for a second run, and so on: see the tool."""
    plain, *others = NAMES
    found = [
        verdict
        for seed in range(first, first + PER_TEST)
        for verdict in judged(seed, (plain, others[seed // 2 % len(others)]))
    ]
    assert [f"{each.seed}, {each.variation}: {each.failure}" for each in found if each.failure] == []
    assert sum(each.compared for each in found) > len(found) // 2
    assert any(each.smaller for each in found)
