"""Measuring takes fewer samples where a network takes long: by its work, never by a clock."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import onnxsqueeze
from onnxsqueeze.squeezing import effort
from onnxsqueeze.squeezing.effort import duration, effort_of
from tests.squeezing.networks import dependent

MODEL = dependent(np.random.default_rng(0))
X = np.random.default_rng(1).uniform(-1, 1, size=(900, 8)).astype(np.float32)


def planned(macs: float, families: int = 10, exact: bool = True) -> effort.Effort:
    class Units(SimpleNamespace):
        def __len__(self) -> int:
            return 1

    family: Any = SimpleNamespace(exact=exact, units=np.arange(100))
    units: Any = Units(macs_left=lambda removed: macs)
    readers: Any = [None] * families
    return effort_of(units, [family] * families, readers, 20)


def test_short_networks_take_as_many_samples_as_ever() -> None:
    found = planned(1e6)
    assert (found.evaluated, found.measured, found.apart, found.fewer(5000)) == (512, 128, 1, 0)
    assert found.gathered > 100_000


@pytest.mark.parametrize("macs", [1e8, 2e8, 1e9, 1e10])
def test_the_work_is_bounded_down_to_a_few_samples(macs: float) -> None:
    found = planned(macs)
    assert found.evaluated * found.sizes * macs <= effort.WORK or (found.evaluated, found.apart) == (64, 2)
    assert found.gathered >= 192 and found.fewer(5000) == found.evaluated < 512


def test_units_that_are_measured_one_by_one_count() -> None:
    assert planned(1e8, exact=False).measured == 40 < planned(1e8).measured
    assert planned(1e6, exact=False).seconds(2.0, 5.0) == 1000 * 2 + 200 * 5


@pytest.mark.parametrize(
    ("seconds", "words"), [(20, "less than a minute"), (250, "at most 4 minutes"), (9000, "at most 2.5 hours")]
)
def test_how_long_it_takes_is_told(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_long_network_is_squeezed_by_fewer_samples_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "WORK", 21 * 208 * 70.0)
    told: list[str] = []
    wishes = {"ratio": 2, "metric": "deviation", "progress": lambda phase, fraction: told.append(phase)}
    found = [onnxsqueeze.squeeze(MODEL, {"x": X}, **wishes)]
    assert "measuring what may leave, less than a minute" in told
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: 1e4 * clock())
    found += [onnxsqueeze.squeeze(MODEL, {"x": X}, **wishes)]
    assert any(phase.startswith("measuring what may leave, at most ") for phase in told)
    assert found[0].report.compared == 70 < 512
    assert found[0].model == found[1].model, "the clock must not matter"
