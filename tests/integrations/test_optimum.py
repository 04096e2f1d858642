"""A masked transformer, exported by Optimum and minimized in its place, as docs/integrations.md shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("optimum.exporters.onnx", reason="optimum-onnx is not installed")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.docs.blocks import blocks  # noqa: E402

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


def masked() -> torch.nn.Module:
    """A BERT whose feed-forward layer has 40 of 64 units without weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, intermediate_size=64, max_position_embeddings=16)
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        layer = model.encoder.layer[0]
        layer.intermediate.dense.weight[24:] = 0
        layer.intermediate.dense.bias[24:] = 0
    return model


def test_what_optimum_exports_becomes_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = (each.text for each in blocks("docs/integrations.md") if "optimum" in each.text)
    names = {"model": (model := masked())}
    exec(program.replace('"round_to": "auto"', '"round_to": 1'), names)
    reports = names["reports"]
    assert list(reports) == ["model.onnx"]
    shapes = {shape for layer in reports["model.onnx"].layers for shape in layer.shape_after}
    assert 24 in shapes and 64 not in shapes
    ids = torch.randint(0, 50, (2, 7))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    session = onnxruntime.InferenceSession(tmp_path / "exported/model.onnx", providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}
    found = session.run(None, {name: array.numpy() for name, array in given.items() if name in names})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(**given).last_hidden_state.numpy(), atol=1e-4)
