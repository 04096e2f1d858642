"""Recurrent layers between two fully-connected ones, with hidden units that are dead or always zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.blocks.networks import CLASSES, FEATURES
from tests.support.blocks.planting import DEAD, spread

GATES = {nn.LSTM: (4, 2), nn.GRU: (3, 2), nn.RNN: (1, 0)}
"""How many gates a unit has, and which of them is the candidate, without which it stays at its initial zero."""


class Recurrent(nn.Module):
    """A layer of units that remember."""

    def __init__(self, kind: type[nn.RNNBase], stream: int, hidden: int, both_ways: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, stream)
        self.layer = kind(stream, hidden, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(hidden * (1 + both_ways), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify each of [batch, time, features]."""
        return self.head(self.layer(torch.tanh(self.stem(x)))[0])


def plant(kind: type[nn.RNNBase], unit: str, hidden: int, spare: int, both_ways: bool, seed: int = 0) -> Recurrent:
    """Make a network with ``spare`` units in excess of ``hidden`` in each direction.

    One of those that stay is read by the other units alone.
    """
    generator = torch.Generator().manual_seed(seed)
    network = Recurrent(kind, 7, hidden + spare, both_ways).eval()
    spread(network, generator)
    with torch.no_grad():
        for way in range(1 + both_ways):
            order = torch.randperm(hidden + spare, generator=generator)
            network.head.weight[:, order[-1] + way * len(order)] = 0
            _remove(network, kind, unit, order[:spare], way)
    return network


def _remove(network: nn.Module, kind: type[nn.RNNBase], unit: str, gone: Tensor, way: int) -> None:
    layer, head = network.layer, network.head
    assert isinstance(layer, nn.RNNBase) and isinstance(head, nn.Linear)
    suffix, width = "_l0" + "_reverse" * way, layer.hidden_size
    if unit == DEAD:
        getattr(layer, f"weight_hh{suffix}")[:, gone] = 0
        head.weight[:, gone + way * width] = 0
        return
    candidate = gone + GATES[kind][1] * width  # type: ignore[index]
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(layer, name + suffix)[candidate] = 0
