"""Exports that are minimized a second time: exactly, and nothing more is found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.support.exports.sequences import newer, older, spread
from tests.support.planted.checks import SINGLE, deviation, minimize, operators, run, weights

WIDTH, HEADS, STEPS = 24, 4, 7
OF_A_HEAD = WIDTH // HEADS


class Attending(nn.Module):
    """An attention layer, or a whole encoder layer, in which a head is read by nothing."""

    example = torch.zeros(2, STEPS, WIDTH)

    def __init__(self, encoder: bool) -> None:
        super().__init__()
        self.layer: nn.Module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention = self.layer
        if encoder:
            self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)
            attention = self.layer.self_attn
        self.head = nn.Linear(WIDTH, 3)
        spread(self)
        with torch.no_grad():
            attention.out_proj.weight[:, :OF_A_HEAD] = 0  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        attends = isinstance(self.layer, nn.MultiheadAttention)
        y = self.layer(x, x, x, need_weights=False)[0] if attends else self.layer(x)
        return self.head(y.mean(1))  # type: ignore[no-any-return]


def export(encoder: bool, way: str, axes: int) -> onnx.ModelProto:
    """Export by one of the exporters. The inference path of torch's own fused encoder layer is not exported."""
    network = Attending(encoder)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return (newer if way == "newer" else older)(network, opset=18 if way == "newer" else 17, axes=axes)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize(
    ("encoder", "way", "axes"),
    [(False, "newer", 1), (False, "newer", 2), (False, "older", 1), (True, "newer", 1), (True, "older", 1)],
)
def test_an_attention_layer_without_a_head(encoder: bool, way: str, axes: int) -> None:
    """The sizes that it computes for its heads are those of the model at hand."""
    model = export(encoder, way, axes)
    first = minimize(model).model
    second = minimize(first).model
    shape = (3, STEPS + (axes > 1), WIDTH)
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    assert deviation(run(model, feeds, False), run(second, feeds, False)) <= SINGLE
    assert weights(first) == weights(second)
    assert any(WIDTH - OF_A_HEAD in shape for shape in weights(first))
    assert operators(first) == operators(second)
