"""Vision, language, speech and state-space architectures, small for tests and in their published sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as library
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

CLASSES = 10
VOCABULARY = 96
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A network of the library, what it is fed with and where its residual stream is written.

    Attributes:
        model: name of the library's class; its config is named in ``config``.
        small: settings of the small network for tests. full: those of the published one.
        inputs: the names of its arguments: pixel_values, input_ids, attention_mask or input_features.
        streams: for each residual stream, a regular expression for the parameters that write into it: layers and
            tables, and norms whose output it is.
        heads: a regular expression for the layers that make the graph's outputs, which no mask touches.
        shared: settings of both.
        unrolled: the number of tokens if it is fixed, since exporters unroll a loop over them.
    """

    model: str
    config: str
    small: Settings
    full: Settings
    inputs: tuple[str, ...]
    streams: tuple[str, ...]
    heads: str = r"\bclassifier$"
    shared: Settings = field(default_factory=dict)
    unrolled: int = 0

    def settings(self, full: bool) -> dict[str, Any]:
        """All settings of the small or the published network."""
        return {**self.shared, **(self.full if full else self.small)}


class Run(nn.Module):
    """Runs a network of the library on positional arguments and returns its logits."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *arguments: Tensor) -> Tensor:
        """Run the network."""
        found: Tensor = self.network(**dict(zip(self.names, arguments, strict=True))).logits
        return found


def build(architecture: Architecture, full: bool = False, attention: str = "eager", seed: int = 0) -> Run:
    """Return the network in evaluation mode with random weights.

    Args:
        architecture: what to build.
        full: in its published size.
        attention: the library's implementation, ``eager`` or ``sdpa``.
        seed: of the weights.
    """
    settings = architecture.settings(full) | {"attn_implementation": attention}
    if attention == "eager" or architecture.model.startswith(("ConvNext", "Mamba", "Segformer", "T5")):
        settings["attn_implementation"] = "eager"  # some have no other
    config = getattr(library, architecture.config)(**settings)
    torch.manual_seed(seed)
    network = Run(getattr(library, architecture.model)(config), architecture.inputs).eval()
    spread(network, seed)
    return network


def example(architecture: Architecture, full: bool, batch: int, length: int) -> tuple[Tensor, ...]:
    """Return inputs that the network accepts, in the order of its arguments; words are of the small vocabulary."""
    settings = architecture.settings(full)
    generator = torch.Generator().manual_seed(length)
    found: list[Tensor] = []
    for name in architecture.inputs:
        if name == "pixel_values":
            side = settings.get("vision_config", settings).get("image_size", 64)
            found.append(torch.randn(batch, 3, side, side, generator=generator))
        elif name == "input_features":
            bins, positions = settings["num_mel_bins"], settings["max_source_positions"]
            found.append(torch.randn(batch, bins, 2 * positions, generator=generator))
        elif name == "input_ids":
            found.append(torch.randint(0, VOCABULARY, (batch, length), generator=generator))
        else:
            mask = torch.ones(batch, length, dtype=torch.int64)
            mask[batch // 2 :, length - 3 :] = 0
            found.append(mask)
    return tuple(found)


def spread(network: nn.Module, seed: int) -> None:
    """Give biases, norms, tables and factors the spread of trained ones; none is zero, layer scales are about 0.1."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    done: set[int] = set()
    with torch.no_grad():
        for module in network.modules():
            for name, tensor in module.named_parameters(recurse=False):
                if tensor.data_ptr() in done or name == "A_log":
                    continue
                done.add(tensor.data_ptr())
                if "layer_scale" in name:
                    uniform(tensor, 0.05, 0.15)
                elif name == "bias" or module.__class__.__name__.endswith("GRN"):
                    uniform(tensor, -0.3, 0.3)
                elif tensor.dim() == 1:
                    uniform(tensor, 0.3, 1.0)
                elif isinstance(module, nn.Embedding) or name != "weight":
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
                else:
                    fan_in = tensor.shape[0] if isinstance(module, Conv1D) else tensor[0].numel()
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                uniform(module.running_mean, -0.2, 0.2)
                uniform(module.running_var, 0.5, 1.5)


Layer = nn.Linear | nn.modules.conv._ConvNd | Conv1D


def layers(network: nn.Module, architecture: Architecture) -> Iterator[tuple[str, Layer]]:
    """Yield the layers whose weights a mask touches: all but those that make the graph's outputs."""
    for name, module in network.named_modules():
        if isinstance(module, Layer) and not re.search(architecture.heads, name):
            yield name, module


IMAGE, TOKENS, PADDED = ("pixel_values",), ("input_ids",), ("input_ids", "attention_mask")
SMALL_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL_PATCHES = {**SMALL_ENCODER, "image_size": 32, "patch_size": 8}
SMALL_STAGES = {"hidden_sizes": [16, 24], "depths": [2, 2], "num_stages": 2, "image_size": 32}
LABELS = {"num_labels": CLASSES}
CONVNEXT_STREAMS = (
    r"patch_embeddings|embeddings.layernorm|stages.0.layers.\d+.pwconv2",
    *(rf"stages.{stage}.(downsampling_layer.1|layers.\d+.pwconv2)" for stage in (1, 2, 3)),
)
VIT_STREAM = r"cls_token|distillation_token|position_embeddings|projection|o_proj|fc2"
SWIN_STREAMS = (
    r"embeddings|layers.0.blocks.\d+.(attention.o_proj|mlp.fc2)",
    *(
        rf"layers.{stage - 1}.downsample.reduction|layers.{stage}.blocks.\d+.(attention.o_proj|mlp.fc2)"
        for stage in (1, 2, 3)
    ),
)
SEGFORMER_STREAMS = tuple(
    rf"stages.{stage}.(patch_embeddings|blocks.\d+.(attention.o_proj|mlp.fc2))" for stage in range(4)
)

ARCHITECTURES = {
    "convnext": Architecture(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        SMALL_STAGES,
        {"image_size": 64},
        IMAGE,
        CONVNEXT_STREAMS,
        shared=LABELS,
    ),
    "convnextv2": Architecture(
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        SMALL_STAGES,
        {"image_size": 64},
        IMAGE,
        CONVNEXT_STREAMS,
        shared=LABELS,
    ),
    "swin": Architecture(
        "SwinForImageClassification",
        "SwinConfig",
        {"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4, "image_size": 32},
        {"image_size": 224},
        IMAGE,
        SWIN_STREAMS,
        shared=LABELS,
    ),
    "vit": Architecture(
        "ViTForImageClassification", "ViTConfig", SMALL_PATCHES, {"image_size": 64}, IMAGE, (VIT_STREAM,), shared=LABELS
    ),
    "deit": Architecture(
        "DeiTForImageClassification",
        "DeiTConfig",
        SMALL_PATCHES,
        {"image_size": 64, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
        IMAGE,
        (VIT_STREAM,),
        shared=LABELS,
    ),
    "bert": Architecture(
        "BertForSequenceClassification",
        "BertConfig",
        {**SMALL_ENCODER, "vocab_size": VOCABULARY, "max_position_embeddings": 32},
        {},
        PADDED,
        (r"embeddings|output.dense|LayerNorm",),
        shared=LABELS,
    ),
    "distilbert": Architecture(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 32,
        },
        {},
        PADDED,
        (r"embeddings|out_lin|lin2|layer_norm",),
        shared=LABELS,
    ),
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 32},
        {},
        PADDED,
        (r"wte|wpe|c_proj",),
        heads="lm_head",
        shared={"use_cache": False, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "llama": Architecture(
        "LlamaForCausalLM",
        "LlamaConfig",
        {**SMALL_ENCODER, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 64},
        {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
        PADDED,
        (r"embed_tokens|o_proj|down_proj",),
        heads="lm_head",
        shared={"use_cache": False},
    ),
    "t5": Architecture(
        "T5ForTokenClassification",
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY},
        {},
        PADDED,
        (r"shared|SelfAttention\.o\b|\bwo\b",),
        shared=LABELS,
    ),
    "whisper": Architecture(
        "WhisperForAudioClassification",
        "WhisperConfig",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "num_mel_bins": 8,
            "max_source_positions": 12,
            "classifier_proj_size": 24,
        },
        {"max_source_positions": 50, "num_mel_bins": 80},
        ("input_features",),
        (r"conv2|embed_positions|out_proj|fc2",),
        shared=LABELS,
    ),
    "clip": Architecture(
        "CLIPForImageClassification",
        "CLIPConfig",
        {"vision_config": {**SMALL_PATCHES, "projection_dim": 32}},
        {"vision_config": {"image_size": 64}},
        IMAGE,
        (r"embedding|pre_layrnorm|out_proj|fc2",),
        shared=LABELS,
    ),
    "segformer": Architecture(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "num_encoder_blocks": 2,
            "hidden_sizes": [16, 24],
            "depths": [1, 1],
            "num_attention_heads": [1, 2],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "sr_ratios": [2, 1],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
            "image_size": 32,
        },
        {"image_size": 64},
        IMAGE,
        SEGFORMER_STREAMS,
        shared=LABELS,
    ),
    "mamba": Architecture(
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "state_size": 4},
        {"num_hidden_layers": 24},
        TOKENS,
        (r"embeddings|out_proj",),
        heads="lm_head",
        shared={"use_cache": False},
        unrolled=5,
    ),
}
"""By name. The published sizes are those of the library's defaults, at 64 x 64 pixels where any will do: ConvNeXt-Tiny,
Swin-T, ViT-B, DeiT-Ti, BERT-base, DistilBERT-base, GPT-2, SmolLM-135M, T5-small, Whisper-tiny, CLIP ViT-B/32,
SegFormer-B0, Mamba-130M."""
