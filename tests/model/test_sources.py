"""Models in memory, of every kind that callers have."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import pytest
import torch

import onnxsqueeze as sq
from tests.support.perceptrons import perceptron, weights


def pruned() -> onnx.ModelProto:
    units_in, units_out = weights()
    units_out[[0, 4, 6]] = 0
    return perceptron(units_in, units_out)


KINDS: dict[str, Any] = {
    "bytes": lambda: pruned().SerializeToString(),
    "bytearray": lambda: bytearray(pruned().SerializeToString()),
    "open file": lambda: io.BytesIO(pruned().SerializeToString()),
    "onnx_ir": lambda: onnx_ir.from_proto(pruned()),
    "proto": pruned,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_minimized_and_verified(kind: str) -> None:
    result = sq.minimize(KINDS[kind](), round_to=1)
    assert result.report.verification is not None and result.report.verification.passed
    assert result.report.weights_after < result.report.weights_before
    assert sq.verify(KINDS[kind](), result.model).passed
    assert sq.inspect(KINDS[kind](), round_to=1).weights_after == result.report.weights_after


def test_what_torch_exports() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    with torch.no_grad():
        layers[2].weight[:, :5] = 0
    program = torch.onnx.export(layers, (torch.randn(2, 4),), dynamo=True, verbose=False)
    result = sq.minimize(program, round_to=1)
    assert [layer.removed for layer in result.report.layers] == [5, 0]


@pytest.mark.parametrize("wrong", [None, 3, object(), [1, 2], torch.nn.Linear(2, 2)])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(sq.UsageError, match="is nothing that a model can be read from"):
        sq.minimize(wrong)
    with pytest.raises(sq.UsageError, match="is nothing that a model can be read from"):
        sq.verify(pruned(), wrong)


def test_files_that_are_open_as_text(tmp_path: Path) -> None:
    (tmp_path / "net.txt").write_text("a")
    with (tmp_path / "net.txt").open(encoding="utf-8") as file, pytest.raises(sq.UsageError, match="mode 'rb'"):
        sq.minimize(file)
    with pytest.raises(sq.InvalidModelError, match="not an ONNX model"):
        sq.minimize(b"\xff\xff\xff")
