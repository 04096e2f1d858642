"""Sizes that minimizing would raise are not tried, and a network is not made smaller than was asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.planning.policy import blocked
from onnxsqueeze.squeezing.alignment import Alignment
from onnxsqueeze.squeezing.allocation import Search
from onnxsqueeze.squeezing.families import Family, families_of
from onnxsqueeze.squeezing.ladders import Ladder, sizes_of
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.squeezing.search import GoalSearch
from onnxsqueeze.units.discovery import units_of
from onnxsqueeze.units.units import Units
from tests.squeezing.networks import model

IMAGES = np.random.default_rng(1).normal(size=(400, 3, 8, 8)).astype(np.float32)


def chain(widths: tuple[int, ...] = (16, 48)) -> ModelProto:
    """Return 3x3 convolutions of these widths one behind the other, and a layer behind their mean."""
    random, source, data = np.random.default_rng(0), 3, "x"
    weights, nodes = {}, []
    for number, width in enumerate(widths):
        weights[f"k{number}"] = random.normal(size=(width, source, 3, 3)) / 3 / np.sqrt(source)
        pads = {"pads": [1, 1, 1, 1]}
        nodes += [
            helper.make_node("Conv", [data, f"k{number}"], [f"c{number}"], **pads),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"]),
        ]
        source, data = width, f"r{number}"
    weights["w"] = random.normal(size=(source, 5))
    nodes += [
        helper.make_node("ReduceMean", [data], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    return model(nodes, weights, ["n", 3, 8, 8], ["n", 5])


def families(source: ModelProto) -> tuple[Units, dict[str, Family]]:
    found = with_biases(load(source))
    units = units_of(found, sizes={"n": 1}, emptied=True)
    return units, {each.name: each for each in families_of(units, readers_of(found, units), (), ())}


def test_sizes_are_those_that_convolutions_keep() -> None:
    units, found = families(chain())
    sixteen, wider = (next(each for each in found.values() if each.size == size) for size in (16, 48))
    auto = Alignment.of(units, "auto")
    assert sizes_of(sixteen, auto.raised(sixteen)) == [16, 4, 0]  # from 5 to 15 all 16 would stay
    rounded = auto.raised(wider)
    assert all(rounded(size) == blocked(4, size, 48) for size in range(1, 49)) and rounded(0) == 0
    assert Alignment.of(units, 8).raised(sixteen)(9) == 16
    assert [Alignment.of(units, 1).raised(sixteen)(size) for size in range(17)] == list(range(17))


@pytest.mark.parametrize("macs", [1.3, 2.0])
def test_what_is_asked_of_macs_comes_out_at_once(monkeypatch: pytest.MonkeyPatch, macs: float) -> None:
    made = []
    make = GoalSearch._make
    monkeypatch.setattr(GoalSearch, "_make", lambda self, times: made.append(times) or make(self, times))
    found = onnxsqueeze.squeeze(chain((32, 64, 64)), {"x": IMAGES}, macs=macs, metric="deviation")
    assert macs <= found.report.chosen.macs_ratio < 1.12 * macs
    assert len(made) <= 2  # what the search counts is what minimizing leaves


def test_the_last_family_moves_to_a_size_that_stays() -> None:
    family: Any = SimpleNamespace(size=64, units=np.arange(64), name="a")
    sizes = (64, 32, 0)
    ladder = Ladder(family, sizes, (0.0, 1.0, 5.0), np.arange(64), None, lambda size: -(-size // 16) * 16)
    search = Search([ladder], lambda removed: float(64 - removed.sum()), 64)
    for cost in range(1, 64):
        found = search.at(cost)
        assert found.sizes[0] % 16 == 0 and found.cost <= cost < found.cost + 16


@pytest.mark.parametrize(("asked", "bound"), [(1.5, 1.9), (3.0, 3.9)])
def test_a_network_that_came_out_far_too_small_is_made_larger(asked: float, bound: float) -> None:
    """What was counted beforehand may be wrong by a jump: then sizes between are tried."""
    search: Any = GoalSearch.__new__(GoalSearch)
    search.goal = SimpleNamespace(counts_macs=False, ratio=asked, macs=None)
    search._make = lambda times: SimpleNamespace(ratio=times * (1.0 if times < asked * 1.3 else 1.8))
    search._lacking = lambda point: asked / point.ratio
    small = search._make(1.45 * asked)
    found = search._not_too_small([(1.0, asked), (1 / (1.45 * asked), asked / small.ratio)], small)
    assert asked <= found.ratio < bound
