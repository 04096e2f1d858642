"""The pass in a workflow of Olive, as docs/integrations.md shows it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

pytest.importorskip("olive", reason="olive-ai is not installed")

from tests.docs.blocks import blocks  # noqa: E402
from tests.integrations.test_onnx_ir import masked  # noqa: E402
from tests.support.perceptrons import LIVE, width  # noqa: E402


@pytest.mark.parametrize("external", [False, True])
def test_a_workflow_minimizes(external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(masked(), "net.onnx", save_as_external_data=external, location="net.data", size_threshold=0)
    (program,) = (each.text for each in blocks("docs/integrations.md") if "import olive" in each.text)
    assert '"round_to": "auto"' in program
    exec(program.replace('"round_to": "auto"', '"round_to": "1"'), {})
    (written,) = Path("out").rglob("*.onnx")
    assert width(written) == LIVE
    assert width(Path("net.onnx")) > LIVE
