"""Networks of tables, class tokens and recurrent layers, with channels that a mask has made removable."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable

import onnx
import torch
from torch import Tensor, nn

DEAD = (1, 4, 9)  # channels of the stream that are 0 in all that makes it
WIDTH, HIDDEN, WORDS, PLACES, OUT = 12, 10, 30, 20, 3
UNITS, DEAD_UNIT, ZERO_UNIT = 6, 1, 4


def spread(network: nn.Module) -> None:
    """Draw all parameters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)


def without(parameters: Iterable[Tensor], axis: int = 0) -> None:
    """Set the removable channels to 0 along an axis."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.transpose(0, axis)[list(DEAD)] = 0


class Residual(nn.Module):
    """A branch beside the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Language(nn.Module):
    """Tokens and positions, a residual branch, and a head that shares the table of tokens or has its own."""

    example = torch.zeros(2, 7, dtype=torch.int64)

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.block, self.head = Residual(), nn.Linear(WIDTH, WORDS, bias=False)
        spread(self)
        without((self.words.weight, self.places.weight), axis=1)
        without((self.block.down.weight, self.block.down.bias))
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        stream = self.words(x) * WIDTH**0.5 + self.places(torch.arange(x.shape[1], device=x.device))
        return self.head(self.block(stream))  # type: ignore[no-any-return]


class Patches(nn.Module):
    """Patches behind a class token, with a table of positions, as vision transformers have them."""

    example = torch.zeros(2, 3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.block, self.head = Residual(), nn.Linear(WIDTH, OUT)
        spread(self)
        without((self.token, self.places), axis=2)
        without((self.patches.weight, self.patches.bias, self.block.down.weight, self.block.down.bias))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        stream = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], dim=1) + self.places
        return self.head(self.block(stream)[:, 0])  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Recurrent layers, in whose every direction one unit is read by nothing and one stays zero."""

    example = torch.zeros(2, 7, 5)

    def __init__(self, kind: str, layers: int, bidirectional: bool) -> None:
        super().__init__()
        cell = getattr(nn, kind)
        self.layers = cell(5, UNITS, layers, batch_first=True, bidirectional=bidirectional)
        width = UNITS * (1 + bidirectional)
        self.head = nn.Linear(width, OUT)
        spread(self)
        dead, new = range(DEAD_UNIT, width, UNITS), {"LSTM": 2, "GRU": 2, "RNN": 0}[kind] * UNITS
        with torch.no_grad():
            for name, parameter in self.layers.named_parameters():
                if "weight_hh" in name:
                    parameter[:, DEAD_UNIT] = 0
                elif "weight_ih" in name and "_l0" not in name:
                    parameter[:, list(dead)] = 0
                parameter[new + ZERO_UNIT] = 0
            self.head.weight[:, list(dead)] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0])  # type: ignore[no-any-return]


def older(network: nn.Module, opset: int = 17, folding: bool = True, axes: int = 2) -> onnx.ModelProto:
    """Export by torch's older exporter; the first ``axes`` dims are dynamic."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (network.example,),
            file,
            dynamo=False,
            opset_version=opset,
            do_constant_folding=folding,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": dict(enumerate(("batch", "steps")[:axes])), "y": {0: "batch"}},
        )
    return onnx.load_from_string(file.getvalue())


def newer(network: nn.Module, opset: int = 18, optimize: bool = True, axes: int = 2) -> onnx.ModelProto:
    """Export by torch's newer exporter; the first ``axes`` dims are dynamic."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dims = dict(enumerate((torch.export.Dim("batch"), torch.export.Dim("steps", max=PLACES))[:axes]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            (network.example,),
            dynamo=True,
            opset_version=opset,
            optimize=optimize,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=(dims,),
            verbose=False,
        )
    assert program is not None
    return program.model_proto  # type: ignore[no-any-return]


def exported(network: nn.Module, way: str, axes: int = 2) -> onnx.ModelProto:
    """Export by one of the exporters, optimized or as it is traced."""
    exporter, _, option = way.partition("-")
    if exporter == "newer":
        return newer(network, optimize=option != "plain", axes=axes)
    return older(network, opset=12 if option == "12" else 17, folding=option != "plain", axes=axes)
