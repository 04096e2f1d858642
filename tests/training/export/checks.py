"""What an exported file must fulfil, whatever the module."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxsqueeze.training.export.export import export_masked
from onnxsqueeze.training.export.pruned import carry_out_masks, plain_copy
from tests.support.planted.checks import SINGLE, deviation, run


def exported(module: nn.Module, inputs: Any, folder: Path, **options: Any) -> onnx.ModelProto:
    """Export a module without a warning; check that it is as it was, and that parameters have kept their names."""
    before = snapshot(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = export_masked(module, inputs, folder / "masked.onnx", **options)
    assert snapshot(module) == before
    assert path == folder / "masked.onnx"
    assert [entry.name for entry in folder.iterdir()] == ["masked.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def carried_out(module: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Return what an export starts from, without one: the parameters and buffers of the copy that holds no masks."""
    before = snapshot(module)
    copied = plain_copy(module)
    carry_out_masks(copied)
    assert snapshot(module) == before
    return {name: tensor.numpy() for name, tensor in copied.state_dict().items()}


def snapshot(module: nn.Module) -> list[Any]:
    """Return all that an export must not change, as values that can be compared."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    values = [
        (name, id(tensor), tensor.requires_grad, tensor.device, tensor.detach().double().numpy().tobytes())
        for name, tensor in tensors.items()
    ]
    parts = [
        (id(part), type(part), part.training, [sorted(map(id, table.values())) for table in _hooks(part)])
        for part in module.modules()
    ]
    return [values, parts, torch.random.get_rng_state().numpy().tobytes()]


def _hooks(part: nn.Module) -> list[Mapping[int, Any]]:
    return [part._forward_hooks, part._forward_pre_hooks, part._backward_hooks]


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """Return the initializers by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def metadata(model: onnx.ModelProto, key: str) -> Any:
    """Return what the model's metadata hold under ``onnxsqueeze.key``."""
    return json.loads({entry.key: entry.value for entry in model.metadata_props}[f"onnxsqueeze.{key}"])


def sizes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    """Return the declared sizes of inputs or outputs."""
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }


def assert_equal(model: onnx.ModelProto, module: nn.Module, feeds: Mapping[str, Tensor], outputs: list[Tensor]) -> None:
    """Compare the outputs of a model in onnxruntime with those of a module."""
    found = run(model, {name: tensor.numpy() for name, tensor in feeds.items()})
    expected = [tensor.detach().numpy() for tensor in outputs]
    assert len(found) == len(expected)
    assert deviation(expected, found) <= SINGLE


def evaluated(module: nn.Module, *inputs: Tensor) -> Any:
    """Run a copy of a module in evaluation mode."""
    with torch.no_grad():
        return copy.deepcopy(module).eval()(*inputs)
