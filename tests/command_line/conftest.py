"""The networks that the commands are run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from command_line.perceptrons import perceptron, saved, weights
from onnxsqueeze import minimizing


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
    """Let the surgery spoil a weight, as a wrong rule would."""
    right = minimizing.apply

    def spoiled(*args: Any) -> Any:
        model = right(*args)
        model.initializers["w2"] = model.initializers["w2"].with_array(2 * model.initializers["w2"].array)
        return model

    monkeypatch.setattr(minimizing, "apply", spoiled)
