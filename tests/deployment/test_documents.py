"""The programs in docs/deploy: each page goes from a file to a running program, and each does what it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.deployment.networks import needs, web_folder
from tests.support.perceptrons import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "deploy"
_BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_CLOSE = 2e-5  # of the outputs' scale: other orders of summation in ten layers


def blocks(page: Path) -> tuple[list[str], str, str]:
    """Return the commands before a page's program, the language of the program, and the program."""
    commands: list[str] = []
    for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in ("python", "js"):
            return commands, language, text
        commands += [line for line in text.splitlines() if line.startswith("onnxsqueeze ")]
    raise AssertionError(f"{page} has no program")


def ran(language: str, program: str, folder: Path) -> list[float]:
    """Run a program, which leaves its result in `logits`, and return that."""
    if language == "python":
        shown = "print(__import__('json').dumps(logits.ravel().tolist()))"
        command = [sys.executable, "-c", f"{program}\n{shown}"]
    else:
        (folder / "node_modules").symlink_to(web_folder() / "node_modules")
        script = folder / "program.mjs"
        script.write_text(f"{program}\nconsole.log(JSON.stringify(Array.from(logits.data)));\n", encoding="utf-8")
        command = ["node", str(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = next(line for line in done.stdout.splitlines() if line.startswith("digit "))
    logits: list[float] = json.loads(done.stdout.splitlines()[-1])
    assert str(int(np.argmax(logits))) in answer
    return logits


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "README"))
def test_the_program_of_a_page_computes_what_onnxruntime_computes(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs({"ort": "onnxruntime"}.get(page, page))
    commands, language, program = blocks(PAGES / f"{page}.md")
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    np.save(tmp_path / "image.npy", image)
    (tmp_path / "image.bin").write_bytes(image.tobytes())
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        result = run(*shlex.split(command)[1:], "--quiet")
        assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(ROOT / "models" / "vgg.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(["logits"], {"image": image})
    assert np.abs(np.array(ran(language, program, tmp_path)) - expected.ravel()).max() < _CLOSE * np.abs(expected).max()


def test_every_target_has_a_page() -> None:
    from onnxsqueeze.deployment.targets import TARGETS

    assert set(TARGETS) <= {path.stem for path in PAGES.glob("*.md")}
