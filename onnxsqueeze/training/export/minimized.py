"""From a masked torch module to a minimized ONNX model in one call."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from onnxsqueeze.pipeline.minimize import Result, minimize
from onnxsqueeze.training.export.export import export_masked

if TYPE_CHECKING:
    from onnxsqueeze.training.export.calling import Inputs


def minimize_module(
    module: nn.Module, example_inputs: Inputs, *, export: dict[str, Any] | None = None, **options: Any
) -> Result:
    """Export a masked module and minimize it: the same function up to rounding, in a smaller ONNX model.

    Args:
        module: the module, with masks of `torch.nn.utils.prune`, with parametrizations, or with weights that are zeros;
            it is not changed. example_inputs: what to call it with.
        export: further arguments of `onnxsqueeze.training.export_masked`. options: those of `onnxsqueeze.minimize`.

    Returns:
        What `onnxsqueeze.minimize` returns; ``.model`` is the ModelProto.

    Raises:
        UsageError: when the module does not export, or an argument cannot be followed.
        VerificationError: when the result differs from the export.
    """
    with TemporaryDirectory() as folder:
        path = export_masked(module, example_inputs, Path(folder) / "module.onnx", **(export or {}))
        data = path.read_bytes() if not list(path.parent.glob("*.data")) else path
        return minimize(data, **options)
