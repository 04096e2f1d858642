"""Networks of the transformers library: exported as they come, with the names of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as library
from torch import Tensor
from torch.nn.utils import prune

import onnxsqueeze as sq
from tests.training.export.checks import assert_equal, exported, metadata, sizes, stored

TOKENS = {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2}
BLOCKS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
NETWORKS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (library.GPT2LMHeadModel, library.GPT2Config, {**TOKENS, "n_embd": 16, "n_layer": 1, "n_head": 2}),
    "llama": (library.LlamaForCausalLM, library.LlamaConfig, {**TOKENS, **BLOCKS, "num_key_value_heads": 1}),
    "convnext": (
        library.ConvNextForImageClassification,
        library.ConvNextConfig,
        {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2, "drop_path_rate": 0.3},
    ),
}
FROZEN = {"llama": ["model.rotary_emb.inv_freq"]}


def inputs(name: str, batch: int) -> dict[str, Tensor]:
    """Return inputs of a network by the names of its arguments."""
    if name == "convnext":
        return {"pixel_values": torch.randn(batch, 3, 16, 16)}
    return {"input_ids": torch.randint(3, 48, (batch, 6))}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_exported(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind, config, settings = NETWORKS[name]
    network = kind(config(**settings)).train()
    layer = next(part for part in network.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d))
    prune.ln_structured(layer, "weight", 0.5, 2, 0)
    expected = {parameter for parameter, _ in kind(config(**settings)).named_parameters(remove_duplicate=False)}
    model = exported(network, inputs(name, 1), tmp_path, keep_dropout=True)
    assert expected <= set(stored(model))
    assert metadata(model, "frozen") == FROZEN.get(name, []) and metadata(model, "tied") == []
    assert all(
        entry[0] == "batch" for entry in (*sizes(model.graph.input).values(), *sizes(model.graph.output).values())
    )
    dropouts = [node.op_type for node in model.graph.node].count("Dropout")
    assert (dropouts > 0) == (name == "gpt2")
    feeds = inputs(name, 3)
    network.eval()
    with torch.no_grad():
        outputs = list(network(**feeds, **({"use_cache": False} if name in ("gpt2", "llama") else {})).values())
    assert_equal(model, network, feeds, outputs)
    assert sq.minimize(model, verify=False).report.ratio >= 1
