"""What the pages say to type is typed, or a mark in the page's source says why not, or which test does it."""

from __future__ import annotations

import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest

from tests.docs.blocks import OTHERS, ROOT, RUN, Block, blocks, pages
from tests.docs.preparation import prepared, tools

RUNNING = [page for page in pages() if any(block.runs for block in blocks(page))]
MARKED = [block for page in pages() for block in blocks(page) if block.kind]
NEEDED = {
    "README.md": ("torch", "openvino"),
    "docs/training.md": ("torch",),
    "docs/squeeze.md": ("jinja2",),
    "docs/integrations.md": ("onnx_ir",),
}
_TIMES = re.compile(r"^time: |largest deviation")
_OURS = re.compile(r"\b(?:onnxsqueeze|python|torchrun|pip|npm) ")


@pytest.mark.parametrize("page", RUNNING)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, in one folder; programs go on where the last one ended. A block of text is what came out."""
    for module in NEEDED.get(page, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    commands = tools(tmp_path.parent / f"{tmp_path.name}-bin")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    names = prepared(page, tmp_path)
    printed: str | None = None
    for block in blocks(page):
        if block.language == "text":
            if printed is not None:
                assert _comparable(block.text) == _comparable(printed), f"{page}:{block.line}"
        elif block.runs:
            printed = _typed(block, names) if block.language == "sh" else _executed(block, names)
            continue
        printed = None


def _typed(block: Block, names: dict[str, object]) -> str:
    done = subprocess.run(["bash", "-e", "-c", block.text], capture_output=True, text=True)
    assert done.returncode == 0, f"{block.page}:{block.line}\n{block.text}\n{done.stdout}{done.stderr}"
    return done.stdout


def _executed(block: Block, names: dict[str, object]) -> None:
    code = compile("\n" * block.line + block.text, str(ROOT / block.page), "exec")  # so that a traceback names its line
    with redirect_stdout(io.StringIO()):
        exec(code, names)


def _comparable(text: str) -> list[str]:
    """Return the lines of an output, those with times or rounding without their numbers."""
    return [
        re.sub(r"\d[\d.e+-]*(?: [mu]?s)?", "#", line) if _TIMES.search(line) else line for line in text.splitlines()
    ]


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language_and_runs_or_is_marked(page: str) -> None:
    for block in blocks(page):
        place = f"{page}:{block.line}"
        assert block.language in (*RUN, *OTHERS, "text", "mermaid"), f"{place}: a language, or text for what is printed"
        assert block.runs or block.kind or block.language in ("text", "mermaid"), f"{place}: say why it is not run"
        typed = block.language == "text" and any(_OURS.match(line) for line in block.text.splitlines())
        assert not typed, f"{place}: a command, not an output"


def test_marks_are_true() -> None:
    """A reason is a sentence; a test that runs a block exists, and reads the page."""
    for block in MARKED:
        place = f"{block.page}:{block.line}"
        if block.kind == "not run":
            assert len(block.words.split()) >= 3, place
            continue
        source = (ROOT / block.words).read_text(encoding="utf-8")
        folder = Path(block.page).parent.name
        assert Path(block.page).name in source or (folder != "docs" and f'"{folder}"' in source), place


@pytest.mark.parametrize("block", [b for b in MARKED if b.language == "sh"], ids=lambda b: f"{b.page}:{b.line}")
def test_commands_that_are_not_run_have_the_options_that_they_use(block: Block) -> None:
    """Nobody runs it, so that nothing else would tell when an option is renamed."""
    for command, words in _programs(block):
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.strip("[]").split("=")[0] for word in words if word.strip("[").startswith("-")} - {"-"}
        assert used <= known | {"--help"}, f"{block.page}:{block.line}: {sorted(used - known)}"


def _programs(block: Block) -> Iterator[tuple[click.Command, list[str]]]:
    """Yield the commands of ours in a block, with the words that they are given."""
    for line in block.commands:
        for part in line.split(" && "):
            match shlex.split(part):
                case ["onnxsqueeze", name, *words]:
                    group = importlib.import_module("onnxsqueeze.cli.main").main
                    yield group.commands[name], words
                case ["python", path, *words] if path.endswith(".py"):
                    yield _main(path.removesuffix(".py").replace("/", ".")), words
                case ["python", "-m", module, *words] if module.startswith("tools."):
                    yield _main(module), words


def _main(module: str) -> click.Command:
    try:
        found = importlib.import_module(module).main
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("tools"):
            raise
        pytest.skip(f"{missing.name} is not installed")
    assert isinstance(found, click.Command)
    return found
