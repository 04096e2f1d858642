"""The documentation site builds, and explains every reason that a report can give."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from onnxsqueeze.coupling.keep_reason import PAGE, Reason

ROOT = Path(__file__).resolve().parent.parent
_HEADING = re.compile(r'^## [^:]+: "([^"]+)" \{ #(\w+) \}\n(.+)', re.MULTILINE)


def test_every_reason_is_explained() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    explained = {anchor: words for words, anchor, _ in _HEADING.findall(text)}
    assert explained == {reason.anchor: reason.value for reason in Reason}


def test_the_page_says_what_to_do_in_the_words_of_the_reason() -> None:
    """One text, which the terminal and the report show as well (tests/reporting/test_remedies.py)."""
    sections = re.split(r"^## ", (ROOT / PAGE).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    said = {}
    for section in sections:
        (anchor,) = re.findall(r"\{ #(\w+) \}", section)
        (remedy,) = re.findall(r"\*\*What to do:\*\* (.+)", " ".join(section.split()))
        said[anchor] = remedy
    assert said == {reason.anchor: reason.remedy for reason in Reason}


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "onnxsqueeze minimize" in (tmp_path / "cli/index.html").read_text(encoding="utf-8")
