"""What a mask takes from a network: rows, columns, small weights, or channels of its residual streams."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tools.models.architectures.networks import Architecture, Layer, layers

Mask = Callable[[nn.Module, Architecture], None]
SPARSITY = 0.95


def rows_first(layer: Layer) -> Tensor:
    """A view of a layer's weight with its outputs along the first axis."""
    weight = layer.weight.detach()
    return weight.t() if isinstance(layer, Conv1D) else weight


def half(size: int, generator: torch.Generator) -> Tensor:
    """Half of the places, at random."""
    return torch.randperm(size, generator=generator)[: size // 2]


def without_rows(network: nn.Module, architecture: Architecture) -> None:
    """Half of the units of every layer, each time others, lose their incoming weights and keep their biases."""
    generator = torch.Generator().manual_seed(1)
    for _, layer in layers(network, architecture):
        weight = rows_first(layer)
        weight[half(len(weight), generator)] = 0


def scattered(network: nn.Module, architecture: Architecture) -> None:
    """The smallest of all weights go."""
    weights = [layer.weight.detach() for _, layer in layers(network, architecture)]
    magnitudes = torch.cat([weight.abs().ravel() for weight in weights])
    threshold = magnitudes.kthvalue(int(SPARSITY * len(magnitudes))).values
    for weight in weights:
        weight[weight.abs() <= threshold] = 0


def without_columns(network: nn.Module, architecture: Architecture) -> None:
    """Every layer reads but half of its channels, each time others."""
    generator = torch.Generator().manual_seed(2)
    for _, layer in layers(network, architecture):
        columns = rows_first(layer).transpose(0, 1)
        columns[half(len(columns), generator)] = 0


def _without_channels(network: nn.Module, architecture: Architecture, constants: bool) -> None:
    for stream in architecture.streams:
        gone = None
        for prefix, module in network.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                if not re.search(stream, name):
                    continue
                tensor = parameter.detach()
                along = tensor if isinstance(module, Layer) else tensor.movedim(-1, 0)
                along = along.t() if isinstance(module, Conv1D) and along.dim() == 2 else along
                if gone is None:
                    gone = half(len(along), torch.Generator().manual_seed(3))
                if not (constants and name.endswith("bias")):
                    along[gone] = 0


def without_channels(network: nn.Module, architecture: Architecture) -> None:
    """Half of the channels of every residual stream are zero, everywhere; norms that read it keep their parameters."""
    _without_channels(network, architecture, constants=False)


def constant_channels(network: nn.Module, architecture: Architecture) -> None:
    """Half of the channels of every residual stream hold the sum of some biases, everywhere."""
    _without_channels(network, architecture, constants=True)


MASKS: dict[str, Mask] = {
    "rows": without_rows,
    "scattered": scattered,
    "columns": without_columns,
    "zero-stream": without_channels,
    "constant-stream": constant_channels,
}
