"""An ONNX file whose inputs have one shape, for runtimes that read ONNX but no dynamic dimensions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ValueInfoProto

from onnxsqueeze.model.loading import load
from onnxsqueeze.model.protobuf import fixed_size
from onnxsqueeze.model.saving import save
from onnxsqueeze.runtimes.base import Conversion


def with_fixed_shapes(conversion: Conversion) -> tuple[Path, ...]:
    """Write the model with the shapes that its inputs are to have.

    What else it says of shapes is left out where it has names in it: a runtime would hold the name of a dimension and
    its size for different things.

    Returns:
        The file, one with the names of its outputs for `output_names`, and those of its external data.
    """
    model = load(conversion.model, check=False)
    graph = model.skeleton.graph
    for value in graph.input:
        _fix(value, conversion.shapes)
    for output in graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if fixed_size(dim) is None:
                dim.Clear()
    known = [value for value in graph.value_info if not _symbolic(value)]
    del graph.value_info[:]
    graph.value_info.extend(known)
    target = conversion.folder / "model.onnx"
    save(model, target)
    stored = sorted(path for path in conversion.folder.glob(f"{target.name}*") if path != target)
    return target, write_output_names(conversion.folder, [output.name for output in graph.output]), *stored


def write_output_names(folder: Path, names: Sequence[str]) -> Path:
    """Write the names of a model's outputs beside it, for runtimes that have other names for them."""
    path = folder / "model.outputs.json"
    path.write_text(json.dumps(names) + "\n", encoding="utf-8")
    return path


def output_names(path: Path) -> list[str]:
    """Read what `write_output_names` wrote."""
    names: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return names


def _fix(value: ValueInfoProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    shape = value.type.tensor_type.shape
    if value.name in shapes:
        del shape.dim[:]
        for size in shapes[value.name]:
            shape.dim.add().dim_value = size


def _symbolic(value: ValueInfoProto) -> bool:
    return any(fixed_size(dim) is None for dim in value.type.tensor_type.shape.dim)
