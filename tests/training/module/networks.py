"""Small networks and their exports, by both of torch's exporters."""

from __future__ import annotations

import copy
import io
import logging
import warnings

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolutional(nn.Module):
    """Convolutions with BatchNorm, one without a bias, a Dropout that does nothing, a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.dropout, self.head = nn.Dropout(0.0), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.gelu(self.last(self.second(x)))
        return self.head(self.dropout(x.mean((2, 3))))


class Normed(nn.Module):
    """Layers whose biases and gammas are all equal at the start, as those of a network that was not trained yet."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(3))
        for layer in self.layers:
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.relu(layer(norm(x)))
        return x


class Tied(nn.Module):
    """A table of words that is the head, too."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden = nn.Embedding(11, 6), nn.Linear(6, 6)

    def forward(self, ids: Tensor) -> Tensor:
        """Run the network."""
        return F.linear(torch.tanh(self.hidden(self.words(ids))), self.words.weight)


def perceptron() -> nn.Module:
    """Linear layers with two activations."""
    layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4)]
    return nn.Sequential(nn.Flatten(), *layers)


def exported(network: nn.Module, *inputs: Tensor, dynamo: bool = True, optimize: bool = False) -> onnx.ModelProto:
    """Export a network in evaluation mode, its batch dynamic; the network stays as it is."""
    network = copy.deepcopy(network).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = [f"x{place}" for place in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
            program = torch.onnx.export(
                network,
                inputs,
                dynamo=True,
                optimize=optimize,
                input_names=names,
                dynamic_shapes=shapes,
                verbose=False,
            )
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        torch.onnx.export(
            network,
            inputs,
            file,
            dynamo=False,
            opset_version=17,
            do_constant_folding=optimize,
            training=torch.onnx.TrainingMode.EVAL if optimize else torch.onnx.TrainingMode.PRESERVE,
            input_names=names,
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        return onnx.load_from_string(file.getvalue())
