"""Which networks are on the front, which is the best, and how they are drawn."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxsqueeze.training.cycle import plotting
from onnxsqueeze.training.cycle.front import best, points, to_dict
from onnxsqueeze.training.cycle.settings import Goal
from tests.training.cycle.test_targets import record, state

RUN = state(
    Goal(max_drop=0.005),
    record(1, 6000, 0.981),
    record(2, 3000, 0.970, base=1),
    record(3, 4000, 0.976, base=1),
    record(4, 4500, 0.975, base=1),
)


def test_the_front_holds_what_no_other_beats() -> None:
    found = points(RUN, Path("run"))
    assert [point.cycle for point in found if point.on_front] == [1, 2, 3]  # 0 is larger and worse than 1, 4 than 3
    assert [point.cycle for point in found if point.within] == [0, 1, 3, 4]


def test_the_best_is_the_smallest_within_the_drop() -> None:
    chosen = best(points(RUN, Path("run")))
    assert (chosen.cycle, chosen.ratio, chosen.metric) == (3, 2.5, 0.976)
    assert chosen.onnx_path == Path("run/cycle-03/minimized.onnx")
    assert len(chosen.front) == 5


def test_without_a_drop_the_best_is_the_smallest() -> None:
    anything = replace(RUN, goal=Goal(max_drop=None, target_ratio=4.0))
    assert best(points(anything, Path("run"))).cycle == 2


def test_of_equal_sizes_the_better_one_is_best() -> None:
    equal = replace(RUN, records=(*RUN.records, record(5, 4000, 0.979, base=1)))
    assert best(points(equal, Path("run"))).cycle == 5


def test_the_file_holds_relative_paths() -> None:
    plain = to_dict(points(RUN, Path("run")), Path("run"))
    assert plain["best"] == 3
    assert plain["points"][3]["onnx_path"] == "cycle-03/minimized.onnx"


def drawn(page: str) -> list[dict[str, Any]]:
    """Return the points that a page draws."""
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    found: list[dict[str, Any]] = json.loads(data)["front"]["points"]
    return found


def test_the_page_needs_nothing_else_and_names_every_network() -> None:
    page = plotting.page(points(RUN, Path("run")), 0.005).decode()
    found = drawn(page)
    assert [point["name"] for point in found] == [f"cycle {cycle}" for cycle in range(5)]
    (best_one,) = [point for point in found if point["chosen"]]
    assert (best_one["name"], best_one["ratio"], best_one["value"]) == ("cycle 3", 2.5, 0.976)
    assert ["weight elements", "4,000"] in best_one["facts"]
    assert [point["within"] for point in found] == [True, True, False, True, True]
    assert "drops too much" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page), "it loads something"


def test_a_single_network_is_drawn_as_well() -> None:
    page = plotting.page(points(state(Goal()), Path("run")), None).decode()
    assert len(drawn(page)) == 1
    assert "NaN" not in page.split('id="data">')[1].split("</script>")[0]


def test_the_picture_is_a_png() -> None:
    pytest.importorskip("matplotlib")
    drawn = plotting.picture(points(RUN, Path("run")), 0.005)
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")


def test_there_is_no_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plotting.picture(points(RUN, Path("run")), 0.005) is None
