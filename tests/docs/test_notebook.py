"""The notebook runs from its first cell to its last, and leaves what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
for module in ("ipykernel", "jinja2", "torch"):
    pytest.importorskip(module)

from tests.docs.blocks import ROOT  # noqa: E402

NOTEBOOK = ROOT / "docs/walkthrough.ipynb"


def weights(path: Path) -> int:
    return sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copytree(ROOT / "models", tmp_path / "models")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert weights(tmp_path / "small.onnx") < weights(tmp_path / "masked.onnx") / 2
    assert weights(tmp_path / "squeezed.onnx") < weights(tmp_path / "models/digits.onnx") / 1.9


def test_its_outputs_are_stored() -> None:
    """They are what a reader on the web sees: `jupyter nbconvert --execute --inplace docs/walkthrough.ipynb`."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 50_000
