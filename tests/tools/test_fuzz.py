"""Random graphs, each as it is or in one variation; `python tools/fuzz/fuzz_structure.py` checks all variations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.extent import LONG
from tools.fuzz.checking import NAMES, THE_SAME, Verdict, judged

GRAPHS, PER_TEST = 300, 20
DEALT = 14
"""So many forms take turns among these graphs. Those that came later have some of their own: a graph keeps its form."""
OWN = range(700100, 700106)


def names_of(seed: int) -> tuple[str, ...]:
    """Return in which ways a graph is checked: as it is, in the next variation in turn, or both.

    Seeds of two kinds of graphs take turns, so that each kind comes in each way.
    """
    plain, *others = NAMES[:DEALT]
    other = others[seed // 4 % len(others)]
    if LONG or other in THE_SAME:  # what is left of one is compared with what is left of the other
        return plain, other
    return (other if seed // 2 % 2 else plain,)


@pytest.mark.parametrize("first", range(0, GRAPHS, PER_TEST))
def test_random_graphs_come_out_as_they_must(first: int) -> None:
    """The same outputs, no more elements, no more bytes, nothing left for a second run, and so on: see the tool."""
    hold([verdict for seed in range(first, first + PER_TEST) for verdict in judged(seed, names_of(seed))])


@pytest.mark.parametrize("form", NAMES[DEALT:])
def test_forms_that_came_later(form: str) -> None:
    hold([verdict for seed in OWN for verdict in judged(seed, (form,))])


def hold(found: Sequence[Verdict]) -> None:
    """Assert that nothing failed, that most could be compared, and that some became smaller."""
    assert [f"{each.seed}, {each.variation}: {each.failure}" for each in found if each.failure] == []
    assert sum(each.compared for each in found) > len(found) // 2
    assert any(each.smaller for each in found)
