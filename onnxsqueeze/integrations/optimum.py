"""Exports by Hugging Face Optimum that are minimized as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum.exporters.onnx import main_export, onnx_export_from_model

from onnxsqueeze.pipeline.minimize import minimize
from onnxsqueeze.reporting.report import Report


def export_minimized(
    model: str | Path | Any, output: str | Path, *, options: Mapping[str, Any] | None = None, **export: Any
) -> dict[str, Report]:
    """Export a masked model by Optimum and minimize each file that it wrote, in its place.

    Args:
        model: what Optimum exports: a name or a folder (`main_export`), or a torch module
            (`onnx_export_from_model`), with weights that are zeros. output: the folder to write into.
        options: those of `onnxsqueeze.minimize`. export: further arguments of Optimum's function.

    Returns:
        What was done to each file, by its name.

    Raises:
        SqueezeError: as `onnxsqueeze.minimize` does; that file is then as Optimum wrote it.
    """
    if isinstance(model, str | Path):
        main_export(str(model), output=output, **export)
    else:
        onnx_export_from_model(model, output=output, **export)
    return {path.name: _minimized(path, options or {}) for path in sorted(Path(output).glob("*.onnx"))}


def _minimized(path: Path, options: Mapping[str, Any]) -> Report:
    """Minimize a file in its place, and remove the data file that nothing names any more."""
    data = path.with_name(f"{path.name}_data")  # as Optimum calls it
    result = minimize(path, **options)
    report = result.report
    if result.changed:
        result.save(path)
        data.unlink(missing_ok=True)
    return report
