"""What both of torch's exporters write is fused without remainder."""

from __future__ import annotations

import io
import warnings
from collections import Counter

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from onnxsqueeze.graph.graph import PATTERN_DOMAIN
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import canonical_graph
from tests.support.patterns.graphs import fused


class RootMeanSquare(nn.Module):
    """The normalization of Llama, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * normalized.to(x.dtype)


class MeanSquare(nn.Module):
    """The normalization of T5, of which only the variance is computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        normalized = x * torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * normalized.to(x.dtype)


class Newer(nn.Module):
    """The GELU of GPT-2, written out."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


class Quick(nn.Module):
    """The GELU of CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """A masked softmax over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=x @ x.transpose(-1, -2) > 0)


NETWORK = [
    (nn.LayerNorm(6), "LayerNormalization"),
    (RootMeanSquare(6), "RMSNormalization"),
    (nn.GELU(), "Gelu"),
    (MeanSquare(6), "RMSNormalization"),
    (nn.GELU("tanh"), "Gelu"),
    (nn.LayerNorm(6, elementwise_affine=False), "LayerNormalization"),
    (Newer(), "Gelu"),
    (nn.SiLU(), "Swish"),
    (Quick(), "Swish"),
]
WITHOUT = {"Constant", "Cast", "LayerNormalization", "Gelu"}  # what may stand beside the fused nodes


def _exported(network: nn.Module, x: Tensor, opset: int, dynamo: bool) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(network, (x,), dynamo=True, opset_version=opset, verbose=False)
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        torch.onnx.export(network, (x,), file, dynamo=False, opset_version=opset)
        return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("kind", [torch.float32, torch.float16], ids=["single", "half"])
@pytest.mark.parametrize(("opset", "dynamo"), [(11, False), (16, False), (18, False), (18, True)])
def test_network(opset: int, dynamo: bool, kind: torch.dtype) -> None:
    network = nn.Sequential(*(layer for layer, _ in NETWORK)).eval().to(kind)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)  # equal tensors would be stored once
    proto = _exported(network, torch.randn(2, 3, 6).to(kind), opset, dynamo)
    expected = Counter(op for _, op in NETWORK)
    if opset >= 17:
        del expected["LayerNormalization"]  # which is an operator by then
    nodes = canonical_graph(load(proto)).nodes
    assert Counter(node.op for node in nodes if node.domain == PATTERN_DOMAIN) == expected
    assert {node.op for node in nodes if node.domain != PATTERN_DOMAIN} <= WITHOUT


@pytest.mark.parametrize(("opset", "dynamo"), [(16, False), (18, True)])
def test_attention(opset: int, dynamo: bool) -> None:
    proto = _exported(Attention(), torch.randn(2, 4, 3, 6), opset, dynamo)
    (node,) = fused(proto)
    assert (node.op, node.attributes) == ("GuardedSoftmax", {"axis": -1})
    assert "IsNaN" not in {node.op for node in canonical_graph(load(proto)).nodes}


def test_newer_rms_norm_in_half_precision() -> None:
    """Its scale is float32, so that the Casts around it stay outside."""
    proto = _exported(nn.RMSNorm(6).half(), torch.randn(2, 3, 6).half(), 18, True)
    (node,) = fused(proto)
    graph = canonical_graph(load(proto))
    assert (node.op, node.attributes["axis"]) == ("RMSNormalization", -1)
    assert [node.op for node in graph.nodes] == ["Cast", "RMSNormalization", "Cast"]
    assert graph.initializers[node.inputs[1]].header.data_type == TensorProto.FLOAT
