"""Both torch exporters with the options that change what they write, and masks for what they export."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir
import torch
from torch import Tensor, nn

from tests.support.exports.architectures import ARCHITECTURES


@dataclass(frozen=True)
class Exporter:
    """One of torch's exporters with its options.

    Attributes:
        opset: the opset version to write.
        dynamo: the newer exporter, else the older one.
        optimize: constant folding, and BatchNorm folded into convolutions.
        resizable: dynamic image sizes, besides the batch.
        training: BatchNorm computes the statistics of each batch; the older exporter alone.
    """

    opset: int
    dynamo: bool
    optimize: bool
    resizable: bool = True
    training: bool = False

    @property
    def name(self) -> str:
        """A name for test ids."""
        parts = ["dynamo" if self.dynamo else "older", str(self.opset)]
        return "-".join([*parts, *["optimized"] * self.optimize, *["fixed"] * (not self.resizable)])

    def sizes(self, architecture: str) -> tuple[int, ...]:
        """Axes of the input with a dynamic size, besides the batch."""
        return ARCHITECTURES[architecture].dynamic if self.resizable else ()


@cache
def masked(architecture: str, mask: str) -> nn.Module:
    """A network in evaluation mode with random weights, under a mask."""
    torch.manual_seed(0)
    network = spread(ARCHITECTURES[architecture].build()).eval()
    if mask:
        MASKS[mask](network, ARCHITECTURES[architecture].sparsity)
    return network


def exported(architecture: str, mask: str, exporter: Exporter) -> onnx.ModelProto:
    """Export a masked network with input ``x``, output ``y`` and a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter.dynamo:
            return _by_newer(architecture, mask, exporter)
        return _by_older(architecture, mask, exporter)


def _example(architecture: str) -> tuple[Tensor]:
    return (torch.zeros(2, *ARCHITECTURES[architecture].sample),)


def _by_older(architecture: str, mask: str, exporter: Exporter) -> onnx.ModelProto:
    sizes = {axis: f"size{axis}" for axis in exporter.sizes(architecture)}
    folding = torch.onnx.TrainingMode.EVAL if exporter.optimize else torch.onnx.TrainingMode.PRESERVE
    network = copy.deepcopy(masked(architecture, mask)).train(exporter.training)  # training moves the statistics
    file = io.BytesIO()
    torch.onnx.export(
        network,
        _example(architecture),
        file,
        dynamo=False,
        opset_version=exporter.opset,
        do_constant_folding=exporter.optimize,
        training=folding,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"} | sizes, "y": {0: "batch"}},
    )
    return onnx.load_from_string(file.getvalue())


def _by_newer(architecture: str, mask: str, exporter: Exporter) -> onnx.ModelProto:
    """Trace the network once; masks and the exporter's own optimization apply to what that gave."""
    program, encoded = _traced(architecture, exporter.opset, exporter.resizable)
    model = onnx.load_from_string(encoded)
    state = masked(architecture, mask).state_dict()
    for tensor in model.graph.initializer:
        if tensor.name in state:
            tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
    if exporter.optimize:
        program.model = onnx_ir.from_proto(model)
        program.optimize()
        model = program.model_proto
    return model


@cache
def _traced(architecture: str, opset: int, resizable: bool) -> tuple[torch.onnx.ONNXProgram, bytes]:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision at every export
    sizes = ARCHITECTURES[architecture].dynamic if resizable else ()
    shapes = {0: torch.export.Dim("batch")} | dict.fromkeys(sizes, torch.export.Dim.AUTO)
    program = torch.onnx.export(
        masked(architecture, ""),
        _example(architecture),
        dynamo=True,
        opset_version=opset,
        optimize=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=(shapes,),
        verbose=False,
    )
    assert program is not None
    return program, program.model_proto.SerializeToString()


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
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return network


Layer = nn.Linear | nn.modules.conv._ConvNd


def layers(network: nn.Module) -> Iterator[Layer]:
    """Yield the layers whose weights a mask touches, in the order of their definition."""
    for module in network.modules():
        if isinstance(module, Layer):
            yield module


def chosen(width: int) -> Tensor:
    """Half of a tensor's channels, the same for all tensors of its width: residual streams lose them as a whole."""
    return torch.randperm(width, generator=torch.Generator().manual_seed(width))[: width // 2]


def by_channel(layer: Layer, outputs: bool) -> Tensor:
    """A layer's weight with its output (or input) channels, per group, along the first axis."""
    weight = layer.weight.detach()
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    return weight if outputs != transposed else weight.transpose(0, 1)


def without_rows(network: nn.Module, sparsity: float) -> None:
    """Mask A: half of all units and filters lose their incoming weights and keep their biases; not the classifier."""
    for layer in list(layers(network))[:-1]:
        rows = by_channel(layer, outputs=True)
        rows[chosen(len(rows))] = 0


def scattered(network: nn.Module, sparsity: float) -> None:
    """Mask B: the smallest of all weights go, but for those of the classifier."""
    weights = [layer.weight.detach() for layer in list(layers(network))[:-1]]
    magnitudes = torch.cat([weight.abs().ravel() for weight in weights])
    threshold = magnitudes.kthvalue(int(sparsity * len(magnitudes))).values
    for weight in weights:
        weight[weight.abs() <= threshold] = 0


def without_columns(network: nn.Module, sparsity: float) -> None:
    """Mask C: nothing reads half of the channels; the input's are all read."""
    for layer in list(layers(network))[1:]:
        columns = by_channel(layer, outputs=False)
        columns[chosen(len(columns))] = 0


MASKS = {"rows": without_rows, "scattered": scattered, "columns": without_columns}
