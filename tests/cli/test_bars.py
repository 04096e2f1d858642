"""What `inspect` draws for each layer, and names on narrow terminals."""

from __future__ import annotations

from dataclasses import replace

import pytest

import onnxsqueeze as sq
from onnxsqueeze.cli import tables
from onnxsqueeze.cli.bars import Bars

LAYER = sq.inspect("models/mlp.onnx").layers[0]
BARS = Bars("#", "+", ".")


@pytest.mark.parametrize(
    ("channels", "dead", "constant", "removed", "bar"),
    [
        (100, 0, 0, 0, "##########"),
        (100, 20, 20, 40, "######...."),
        (100, 20, 40, 40, "####++...."),
        (1000, 1, 0, 1, "#########."),
        (1000, 999, 0, 999, "#........."),
        (10, 10, 0, 10, ".........."),
        (3, 3, 0, 2, "+++......."),
        (0, 0, 0, 0, "?"),
    ],
)
def test_bars(channels: int, dead: int, constant: int, removed: int, bar: str) -> None:
    layer = replace(LAYER, channels=channels, dead=dead, constant=constant, removed=removed)
    assert BARS.drawn(layer) == bar


def test_inspect_draws_them() -> None:
    text = tables.inspected(sq.inspect("models/mlp.onnx"), verbose=False)
    assert Bars.of_stdout().legend in text and "kept" in text.splitlines()[0]


def test_a_dense_model_is_sent_to_squeeze() -> None:
    text = tables.inspected(sq.inspect("models/dense.onnx"), verbose=False)
    assert "next: No weight is zero: this model is dense. onnxsqueeze squeeze makes" in text


@pytest.mark.parametrize(("columns", "cut"), [(80, True), (200, False)])
def test_long_names_lose_their_middle(monkeypatch: pytest.MonkeyPatch, columns: int, cut: bool) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "/encoder/layer.11/attention/self/query/MatMul"
    report = replace(sq.inspect("models/mlp.onnx"), layers=(replace(LAYER, name=name),))
    text = tables.inspected(report, verbose=False)
    assert (name not in text) == cut
    assert ("/encoder/la…query/MatMul" in text) == cut


def test_files_and_pipes_have_whole_names() -> None:
    name = "x" * 300
    assert name in tables.inspected(replace(sq.inspect("models/mlp.onnx"), layers=(replace(LAYER, name=name),)), False)
