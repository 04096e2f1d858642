"""Units are found through whatever an exporter puts between a stored weight and the node that reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onnxsqueeze import minimize
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training import export_masked, from_onnx
from onnxsqueeze.training.units import Units, select, units_of

WIDTH = 16


class Recurrent(nn.Module):
    """A recurrent layer and what reads its last step."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0][:, -1])


class TiedLanguageModel(nn.Module):
    """An LSTM between a table of words and the same table as the matrix of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, WIDTH)
        self.layer = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.table(x))[0])


class WholeGroups(nn.Module):
    """A norm over groups with one scale and bias for each of them, so that they leave whole."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(4, affine=True)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.reshape(len(x), 4, -1)).reshape(x.shape)


def normed(norm: Callable[[], nn.Module]) -> nn.Module:
    """Return two convolutions with norms behind them."""
    first = [nn.Conv2d(3, WIDTH, 3, padding=1), norm(), nn.ReLU()]
    second = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), norm(), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))


SEQUENCE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "gru": (lambda: Recurrent(nn.GRU(8, WIDTH, 2, batch_first=True)), SEQUENCE, {"hidden": 2 * WIDTH}),
    "lstm": (lambda: Recurrent(nn.LSTM(8, WIDTH, batch_first=True)), SEQUENCE, {"hidden": WIDTH}),
    "both ways": (
        lambda: Recurrent(nn.LSTM(8, WIDTH // 2, batch_first=True, bidirectional=True)),
        SEQUENCE,
        {"dim": WIDTH},  # both directions keep equally many
    ),
    "tied": (TiedLanguageModel, torch.arange(14).reshape(2, 7), {"stream": WIDTH}),
    "group norm": (
        lambda: normed(lambda: nn.GroupNorm(4, WIDTH)),
        IMAGES,
        {"head": 2 * 4, "dim": 2 * WIDTH},  # groups keep equally many
    ),
    "one group": (lambda: normed(lambda: nn.GroupNorm(1, WIDTH)), IMAGES, {"hidden": 2 * WIDTH}),
    "whole groups": (lambda: normed(WholeGroups), IMAGES, {"hidden": 2 * 4}),
}


@pytest.fixture(scope="module", params=NETWORKS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Units]:
    """A network, the file that it is exported to, and its units."""
    torch.manual_seed(0)
    make, example, _ = NETWORKS[request.param]
    path = tmp_path_factory.mktemp("exported") / "network.onnx"
    export_masked(make().eval(), example, path)
    module = from_onnx(path)
    return request.param, path, units_of(module.model, trained=module.initializers)


def test_units_are_found(found: tuple[str, Path, Units]) -> None:
    name, _, units = found
    assert Counter(units.kinds) == NETWORKS[name][2]


def test_what_is_masked_really_leaves(found: tuple[str, Path, Units], tmp_path: Path) -> None:
    """The masks of a selection are worth what the units say, and the rest is the same function."""
    _, path, units = found
    scores = np.random.default_rng(0).random(len(units))
    removed = select(units, scores, 0.7 * units.elements)
    assert removed.any() and not removed.all()
    module = from_onnx(path)
    module.set_masks(units.masks(removed))
    before = units.left(np.zeros(len(units), dtype=bool))
    with torch.no_grad():
        for name, mask in module.masks.items():
            module.initializers[name].mul_(mask)
    result = minimize(to_proto(module.write_back()), round_to=1)  # it verifies
    assert result.report.ratio >= 0.97 * before / units.left(removed)


def test_groups_of_several_channels_count_as_these(found: tuple[str, Path, Units]) -> None:
    name, _, units = found
    wanted = WIDTH // 4 if name == "whole groups" else 1
    assert set(units.channels) == {wanted}
