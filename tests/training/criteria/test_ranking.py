"""From scores to masks: how many stay, where, and which of equals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.criteria.ranking import kept
from onnxsqueeze.training.criteria.registry import Ranking

SCORES = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([[10.0, 20.0], [30.0, 40.0]])}
ALL = {name: torch.ones_like(score, dtype=torch.bool) for name, score in SCORES.items()}


def stay(
    keep: int,
    ranking: Ranking = "global",
    floor: float = 0.0,
    scores: dict[str, Tensor] = SCORES,
    alive: dict[str, Tensor] = ALL,
    seed: int = 0,
) -> dict[str, list[bool]]:
    masks = kept(scores, alive, keep, ranking, floor, torch.Generator().manual_seed(seed))
    return {name: mask.flatten().tolist() for name, mask in masks.items()}


@pytest.mark.parametrize("keep", range(9))
def test_a_global_ranking_keeps_the_highest_of_all(keep: int) -> None:
    masks = stay(keep)
    assert masks["a"] + masks["b"] == [False] * (8 - keep) + [True] * keep


@pytest.mark.parametrize(("keep", "a", "b"), [(2, 1, 1), (4, 2, 2), (5, 3, 2), (8, 4, 4)])
def test_a_ranking_by_layer_keeps_the_same_share_of_each(keep: int, a: int, b: int) -> None:
    masks = stay(keep, "layer")
    assert masks == {"a": [False] * (4 - a) + [True] * a, "b": [False] * (4 - b) + [True] * b}


@pytest.mark.parametrize("ranking", ["global", "layer"])
def test_the_floor_keeps_the_best_of_each_tensor(ranking: Ranking) -> None:
    assert stay(2, ranking, floor=0.01)["a"] == [False, False, False, True]
    assert stay(0, ranking, floor=0.5) == {"a": [False, False, True, True], "b": [False, False, True, True]}


def test_what_is_gone_stays_gone_and_is_not_counted() -> None:
    alive = {**ALL, "b": torch.tensor([[True, True], [True, False]])}
    assert stay(3, alive=alive) == {"a": [False] * 4, "b": [True, True, True, False]}
    assert stay(100, alive=alive)["b"] == [True, True, True, False]


def test_chance_decides_between_equals_and_is_seeded() -> None:
    scores = {"a": torch.zeros(100), "b": torch.zeros(100)}
    alive = {name: torch.ones(100, dtype=torch.bool) for name in scores}
    first, again = (stay(100, scores=scores, alive=alive) for _ in range(2))
    other = stay(100, scores=scores, alive=alive, seed=1)
    assert first == again != other
    assert sum(first["a"]) + sum(first["b"]) == 100
    assert 30 < sum(first["a"]) < 70  # not the first tensor first


def test_a_score_that_is_nan_is_refused() -> None:
    with pytest.raises(UsageError, match="NaN for elements of a"):
        stay(3, scores={**SCORES, "a": torch.tensor([1.0, float("nan"), 1.0, 1.0])})
