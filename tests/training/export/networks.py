"""Small modules that are called, pruned and put together in the ways that modules are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp() -> nn.Sequential:
    """Three layers, the middle one in a block of its own."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Sequential(nn.Linear(16, 12), nn.Tanh()), nn.Linear(12, 4))


class Convolutions(nn.Module):
    """Convolutions without biases, batch normalisation, Dropout as a module and as a function, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.second, self.drop = nn.Conv2d(16, 12, 3, bias=False), nn.Dropout(0.25)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        x = F.relu(self.second(F.relu(self.norm(self.first(images))))).mean((2, 3)) * self.scale
        return self.head(F.dropout(self.drop(x), 0.1, self.training))


class Shared(nn.Module):
    """A layer that runs twice, and a table whose weight is also the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the network."""
        return self.head(self.layer(torch.tanh(self.layer(self.table(tokens)))))


class Containers(nn.Module):
    """Takes tensors in containers, and what is no tensor; returns containers."""

    def forward(self, first: Tensor, *, pair: tuple[Tensor, dict[str, Tensor]], mode: str = "sum") -> dict[str, object]:
        """Run the network."""
        mixed = first + pair[0] if mode == "sum" else first - pair[0]
        return {"mixed": mixed, "rest": (pair[1]["last"] * 2, None, pair[1]["last"].argmax(-1))}


class Untouched(nn.Module):
    """Returns its input as it came, and one result twice."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        doubled = x * 2
        return x, doubled, doubled


class Branching(nn.Module):
    """Takes one of two branches, by the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return x if x.sum() > 0 else 3 * x


class Unwritable(nn.Module):
    """Uses an operator that ONNX has no form of."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return torch.linalg.eigvalsh(x @ x.mT)


class Random(nn.Module):
    """Draws random numbers in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return x + torch.randn_like(x)


class Alone(nn.Module):
    """Takes no other batch than of one."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        if x.shape[0] != 1:
            raise ValueError("one at a time")
        return 2 * x


class DropPath(nn.Module):
    """Drops whole samples while it is trained."""

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        if not self.training:
            return x
        return x * (torch.rand(x.shape[0], 1) > 0.5)


class _OlderOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.erfinv(torch.erf(x))

    @staticmethod
    def symbolic(graph: object, x: object) -> object:
        return graph.op("Identity", x)  # type: ignore[attr-defined]


class ForOlder(nn.Module):
    """Uses an operator that only the older exporter knows, since it comes with a symbolic of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return self.second(_OlderOnly.apply(torch.tanh(self.first(x))))  # type: ignore[no-untyped-call]
