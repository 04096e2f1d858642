"""What the pages say to type is typed: a block runs, or a comment before it says why it does not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("index", "squeeze", "report")
"""Pages whose blocks run, each page in a folder of its own; blocks of the other pages are not run."""

SAMPLES = """
import numpy as np
np.savez("samples.npz", image=np.random.default_rng(0).random((600, 1, 28, 28), dtype=np.float32))
"""
_BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its text, and why it does not run, "" if it does."""

    language: str
    text: str
    why: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    return [Block(found["language"], found["text"], found["why"] or "") for found in _BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    for name, source in (("model", "mlp"), ("dense", "dense")):
        shutil.copy(ROOT / f"models/{source}.onnx", tmp_path / f"{name}.onnx")
    subprocess.run([sys.executable, "-c", SAMPLES], cwd=tmp_path, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = blocks(page)
    assert found
    for block in found:
        if block.why:
            continue
        assert block.language in ("sh", "python"), f"a block without a language: {block.text}"
        text = block.text.replace("onnxsqueeze ", f"{sys.executable} -m onnxsqueeze ") if block.language == "sh" else ""
        command = ["bash", "-e", "-c", text] if text else [sys.executable, "-c", block.text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
