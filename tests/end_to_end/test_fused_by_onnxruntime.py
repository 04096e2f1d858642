"""Masked networks that a user's tools fused first lose what they lose unfused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from onnxruntime.transformers import optimizer  # noqa: E402
from onnxruntime.transformers.fusion_options import FusionOptions  # noqa: E402
from torch import nn  # noqa: E402

import onnxsqueeze as sq  # noqa: E402
from tests.support.fused import fused, operators  # noqa: E402
from tests.support.planted.checks import size  # noqa: E402

WIDTH, HEADS, HIDDEN = 32, 4, 128


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1)
        self.third, self.beside = nn.Conv2d(48, 32, 1), nn.Conv2d(32, 32, 3, padding=1)
        self.hidden, self.last = nn.Linear(32, 40), nn.Linear(40, 5)
        with torch.no_grad():
            for layer, left, value in ((self.first, 20, 0.0), (self.second, 30, 0.5), (self.hidden, 25, 0.0)):
                layer.weight[left:], layer.bias[left:] = 0, value
            for layer in (self.third, self.beside):
                layer.weight[24:], layer.bias[24:] = 0, 0

    def forward(self, x: Any) -> Any:
        x = F.relu(self.first(x))
        y = F.leaky_relu(self.second(x), 0.1)
        y = F.relu(self.third(y) + self.beside(x))
        return self.last(F.relu(self.hidden(y.mean((2, 3)))))


class Block(nn.Module):
    """Of the heads one and of the hidden units 58 are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        with torch.no_grad():
            self.up.weight[70:], self.up.bias[70:] = 0, 0
            for layer in (self.query, self.key, self.value):
                layer.weight[16:24], layer.bias[16:24] = 0, 0
            self.out.weight[:, 16:24] = 0

    def forward(self, x: Any) -> Any:
        batch, tokens, _ = x.shape
        q, k, v = (
            layer(x).view(batch, tokens, HEADS, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        x = self.norms[0](x + self.out(attended.transpose(1, 2).reshape(batch, tokens, WIDTH)))
        return self.norms[1](x + self.down(F.gelu(self.up(x))))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, WIDTH), nn.Parameter(torch.randn(1, 6, WIDTH))
        self.norm, self.blocks = nn.LayerNorm(WIDTH), nn.Sequential(Block(), Block())
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, ids: Any) -> Any:
        return self.last(self.blocks(self.norm(self.words(ids) + self.places))[:, 0])


def exported(module: nn.Module, example: Any, opset: int = 17) -> onnx.ModelProto:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
        torch.onnx.export(module.eval(), (example,), path, opset_version=opset, dynamo=False, **names)
        return onnx.load(path)


def text(opset: int = 17) -> onnx.ModelProto:
    torch.manual_seed(0)
    return exported(Text(), torch.randint(0, 50, (2, 6)), opset)


def assert_as_unfused(plain: onnx.ModelProto, model: onnx.ModelProto, expected: float) -> None:
    """Assert that a fused model comes out as large as the plain one, fused as before, and verified."""
    before = size(model)
    alone, result = (sq.minimize(each, round_to=1) for each in (plain, model))
    assert result.report.verification is not None and result.report.verification.passed
    assert size(result.model) <= size(alone.model) * 1.01, dict(result.report.stayed)
    assert size(result.model) <= expected * before
    assert operators(result.model) == operators(model)
    assert len(result.model.graph.node) <= len(model.graph.node)


def test_image_network() -> None:
    torch.manual_seed(0)
    plain = exported(Image(), torch.randn(2, 3, 8, 8))
    assert_as_unfused(plain, fused(plain, "FusedConv", "FusedGemm"), 0.45)


@pytest.mark.parametrize("opset", [14, 17])
def test_transformer_fused_by_a_session(opset: int) -> None:
    plain = text(opset)
    assert_as_unfused(plain, fused(plain, "BiasGelu", "FusedMatMul"), 0.66)


@pytest.mark.parametrize("approximate", [False, True])
def test_transformer_fused_by_the_optimizer(tmp_path: Path, approximate: bool) -> None:
    plain = text()
    onnx.save(plain, tmp_path / "plain.onnx")
    options = FusionOptions("bert")
    options.enable_gelu_approximation = approximate
    path = str(tmp_path / "plain.onnx")
    found = optimizer.optimize_model(
        path, model_type="bert", num_heads=HEADS, hidden_size=WIDTH, opt_level=0, optimization_options=options
    )
    found.save_model_to_file(str(tmp_path / "fused.onnx"))
    model = onnx.load(tmp_path / "fused.onnx")
    assert {"Attention", "SkipLayerNormalization", "FastGelu" if approximate else "BiasGelu"} <= operators(model)
    assert_as_unfused(plain, model, 0.66)
