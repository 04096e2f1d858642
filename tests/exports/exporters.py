"""Both torch exporters with the options that change what they write, and masks for what they export."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from exports.architectures import Architecture


@dataclass(frozen=True)
class Exporter:
    """One of torch's exporters with its options.

    Attributes:
        opset: the opset version to write; 0 for the exporter's own choice.
        dynamo: the newer exporter, else the older one.
        optimize: constant folding, and BatchNorm folded into convolutions.
        resizable: dynamic image sizes, besides the batch.
    """

    opset: int
    dynamo: bool
    optimize: bool
    resizable: bool = True

    @property
    def name(self) -> str:
        """A name for test ids."""
        kind = "dynamo" if self.dynamo else "older"
        return f"{kind}{self.opset or ''}{'-optimized' if self.optimize else ''}{'' if self.resizable else '-fixed'}"

    def export(self, network: nn.Module, architecture: Architecture) -> onnx.ModelProto:
        """Export a network in evaluation mode with input ``x``, output ``y`` and a dynamic batch."""
        sizes = architecture.dynamic if self.resizable else ()
        example = (torch.zeros(2, *architecture.sample),)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.dynamo:
                return self._newer(network.eval(), example, sizes, architecture.multiple)
            return self._older(network.eval(), example, sizes)

    def _older(self, network: nn.Module, example: tuple[Tensor], sizes: tuple[int, ...]) -> onnx.ModelProto:
        axes = {"x": {axis: f"size{axis}" if axis else "batch" for axis in (0, *sizes)}, "y": {0: "batch"}}
        training = torch.onnx.TrainingMode.EVAL if self.optimize else torch.onnx.TrainingMode.PRESERVE
        file = io.BytesIO()
        torch.onnx.export(
            network,
            example,
            file,
            dynamo=False,
            opset_version=self.opset,
            do_constant_folding=self.optimize,
            training=training,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes,
        )
        return onnx.load_from_string(file.getvalue())

    def _newer(
        self, network: nn.Module, example: tuple[Tensor], sizes: tuple[int, ...], multiple: int
    ) -> onnx.ModelProto:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision at every export
        shapes = {0: torch.export.Dim("batch")}
        shapes |= {axis: multiple * torch.export.Dim(f"size{axis}", min=4, max=64) for axis in sizes}
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=self.opset or None,
            optimize=self.optimize,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
        assert program is not None
        return program.model_proto


def spread(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorm layers, biases and slopes the spread of trained ones; none is zero."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    ranges = {"running_mean": (-0.2, 0.2), "running_var": (0.5, 1.5), "bias": (-0.3, 0.3)}
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            kind = name.rpartition(".")[2]
            if kind in ranges:
                uniform(tensor, *ranges[kind])
            elif kind == "weight" and tensor.dim() == 1:
                uniform(tensor, 0.1, 1.0)
            elif kind == "weight":
                bound = 1.5 / tensor[0].numel() ** 0.5
                uniform(tensor, -bound, bound)
    return network


def layers(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers whose weights a mask touches, in the order of their definition."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            yield module


def chosen(width: int) -> Tensor:
    """Half of the channels of a tensor, the same for all tensors of its width: residual streams lose them as a whole."""
    return torch.randperm(width, generator=torch.Generator().manual_seed(width))[: width // 2]


def by_channel(layer: nn.Module, outputs: bool) -> Tensor:
    """A layer's weight with its output (or input) channels, per group, along the first axis."""
    weight = layer.weight.detach()
    assert isinstance(weight, Tensor)
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    return weight if outputs != transposed else weight.transpose(0, 1)


def without_rows(network: nn.Module) -> None:
    """Mask A: half of all units and filters lose their incoming weights and keep their biases; not the classifier."""
    for layer in list(layers(network))[:-1]:
        rows = by_channel(layer, outputs=True)
        rows[chosen(len(rows))] = 0


def scattered(network: nn.Module) -> None:
    """Mask B: 95 % of all weights go, those that are smallest relative to the largest of their layer."""
    weights = [layer.weight.detach() for layer in layers(network)]
    magnitudes = [weight.abs() / weight.abs().max() for weight in weights]
    together = torch.cat([magnitude.ravel() for magnitude in magnitudes])
    threshold = together.kthvalue(int(0.95 * len(together))).values
    for weight, magnitude in zip(weights, magnitudes, strict=True):
        weight[magnitude <= threshold] = 0


def without_columns(network: nn.Module) -> None:
    """Mask C: nothing reads half of the channels; the input's are all read."""
    for layer in list(layers(network))[1:]:
        columns = by_channel(layer, outputs=False)
        columns[chosen(len(columns))] = 0


MASKS = {"rows": without_rows, "scattered": scattered, "columns": without_columns}
