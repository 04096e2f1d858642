"""The networks that the commands are run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rewriting.editor import Editor
from tests.support.perceptrons import perceptron, saved, weights


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    """Return a network of whose 8 hidden units 3 are dead and 2 constant."""
    units_in, units_out = weights()
    units_out[[0, 4, 6]] = 0
    units_in[:, [1, 7]] = 0
    return saved(perceptron(units_in, units_out), tmp_path / "net.onnx")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """Return a network in which nothing can go."""
    return saved(perceptron(*weights()), tmp_path / "dense.onnx")


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every constant that a rule rewrites come out doubled, as a wrong rule might."""
    right = Editor.set_constant

    def doubled(self: Editor, node: Node, position: int, array: Any, kept: Any = None) -> None:
        right(self, node, position, 2 * array, kept)

    monkeypatch.setattr(Editor, "set_constant", doubled)
