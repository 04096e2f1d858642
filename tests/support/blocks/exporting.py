"""Write a network as both torch exporters do, with a dynamic batch and a dynamic number of tokens."""

from __future__ import annotations

import io
import logging
import warnings

import onnx
import torch
from torch import Tensor, nn

from tests.support.blocks.networks import POSITIONS

OLDER, OLDER_FUSED, NEWER = "older-14", "older-17", "dynamo-18"


def export(network: nn.Module, sample: Tensor, exporter: str, sizes: tuple[int, ...] = ()) -> onnx.ModelProto:
    """Export with input ``x`` and output ``y``; ``sizes`` are the dynamic axes of the input besides the batch."""
    opset = int(exporter.rpartition("-")[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter.startswith("dynamo"):
            return _by_newer(network, sample, opset, sizes)
        file = io.BytesIO()
        torch.onnx.export(
            network,
            (sample,),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"} | {axis: f"size{axis}" for axis in sizes}, "y": {0: "batch"}},
        )
    return onnx.load_from_string(file.getvalue())


def _by_newer(network: nn.Module, sample: Tensor, opset: int, sizes: tuple[int, ...]) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision at every export
    shapes = {0: torch.export.Dim("batch")} | {
        axis: torch.export.Dim(f"size{axis}", max=POSITIONS - 1) for axis in sizes
    }
    program = torch.onnx.export(
        network,
        (sample,),
        dynamo=True,
        opset_version=opset,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=(shapes,),
        verbose=False,
    )
    assert program is not None
    return program.model_proto
