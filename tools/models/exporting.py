"""Write torch networks as ONNX files."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from torch import nn


def export(
    network: nn.Module,
    path: Path,
    image: tuple[int, ...],
    opset: int = 17,
    dynamo: bool = False,
    fold_norms: bool = False,
    tokens: bool = False,
) -> None:
    """Write a network in evaluation mode with input ``image``, output ``logits`` and a dynamic batch.

    Args:
        network: the network to write.
        path: the file to write.
        image: shape of one input, without the batch.
        opset: the opset to write; the dynamo exporter wants at least 18.
        dynamo: use the dynamo exporter, unoptimized: BatchNormalization and all parameter names stay.
        tokens: the input is int64 token ids.
        fold_norms: let the older exporter fold BatchNormalization into the convolutions.
    """
    options = {"opset_version": opset, "input_names": ["image"], "output_names": ["logits"], "dynamo": dynamo}
    if dynamo:
        batch = torch.export.Dim("batch")
        options |= {"dynamic_shapes": ({0: batch},), "optimize": False, "verbose": False, "external_data": False}
    else:
        options |= {"dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}}, "do_constant_folding": fold_norms}
    sample = torch.zeros(2, *image, dtype=torch.int64 if tokens else torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (sample,), str(path), **options)
    if dynamo:
        remove_stack_traces(path)


def remove_stack_traces(path: Path) -> None:
    """Drop the file paths of the exporting machine, which the dynamo exporter notes on every node."""
    model = onnx.load(path)
    for node in model.graph.node:
        others = [entry for entry in node.metadata_props if entry.key != "pkg.torch.onnx.stack_trace"]
        del node.metadata_props[:]
        node.metadata_props.extend(others)
    onnx.save(model, path)
