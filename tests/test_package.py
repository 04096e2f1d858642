"""The package as a whole: what it imports and when, what it ships, and that its documents agree with it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest

import onnxsqueeze
from tools.docs.list_operators import PAGE, page

ROOT = Path(__file__).resolve().parent.parent
DEPENDENCIES = {
    "click",
    "google",
    "ml_dtypes",
    "numpy",
    "onnx",
    "onnx_graphsurgeon",
    "onnxruntime",
    "rich",
    "jinja2",
}  # the last of the extra report
TRAINING = {"torch", "onnxscript", "onnx_ir", "matplotlib"}  # of the extras train and plot
INTEGRATIONS = {"onnx_ir", "olive", "optimum"}  # of the extra integrations, each in its own file
HEAVY = {"onnx", "numpy", "onnxruntime", "onnx_graphsurgeon", "rich", "onnxsqueeze.verification", "asyncio"}
_LINK = re.compile(r"\]\((?!\w+:)([^)#]+)")  # to a file
TEST_COMMAND = "pip install -e '.[dev]' && pytest"


def imported(*arguments: str) -> set[str]:
    """Return the modules that a run of the command imports."""
    code = (
        "import sys\nfrom onnxsqueeze.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["minimize", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not imported(*arguments) & HEAVY


def test_minimizing_quietly_without_verification_imports_neither_rich_nor_onnxruntime(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    found = imported("minimize", str(ROOT / "models/mlp.onnx"), "-o", str(target), "--no-verify", "--quiet")
    assert target.exists()
    assert not found & {"rich", "onnxruntime", "onnx.reference", "onnxsqueeze.verification", "onnxsqueeze.cli.tables"}


@pytest.mark.parametrize(("package", "more"), [("", set()), ("training", TRAINING), ("integrations", INTEGRATIONS)])
def test_the_package_imports_its_dependencies_alone(package: str, more: set[str]) -> None:
    """What trains networks may import torch, what joins other tools may import these, and nothing else may."""
    roots: dict[str, Path] = {}
    for path in (ROOT / "onnxsqueeze").rglob("*.py"):
        home = path.relative_to(ROOT / "onnxsqueeze").parts[0]
        if package != (home if home in ("training", "integrations") else ""):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names = [str(node.module)]
            roots.update({name.split(".")[0]: path for name in names})
    own = sys.stdlib_module_names | {"onnxsqueeze"}
    allowed = own | DEPENDENCIES | more
    assert {name: path for name, path in roots.items() if name not in allowed} == {}


def test_every_public_name_can_be_imported() -> None:
    for name in onnxsqueeze.__all__:
        assert getattr(onnxsqueeze, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'shrink'"):
        _ = onnxsqueeze.shrink


def test_the_installed_package_is_typed_and_has_its_command() -> None:
    assert files("onnxsqueeze").joinpath("py.typed").is_file()
    assert version("onnxsqueeze") == onnxsqueeze.__version__
    (script,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "onnxsqueeze"]
    assert script.value == "onnxsqueeze.__main__:main"


def test_python_dash_m_is_the_command() -> None:
    command = [sys.executable, "-m", "onnxsqueeze", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"onnxsqueeze, version {onnxsqueeze.__version__}\n"


def test_the_list_of_operators_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tools/docs/list_operators.py"


def test_the_changelog_knows_the_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert onnxsqueeze.__version__ in headings


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci/run"
    assert TEST_COMMAND in (ROOT / "README.md").read_text(encoding="utf-8")
    assert TEST_COMMAND in script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)


def test_links_between_documents_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*.md")]
    links = [(page, link) for page in pages for link in _LINK.findall(page.read_text(encoding="utf-8"))]
    assert len(links) > 5
    assert [(page, link) for page, link in links if not (page.parent / link).exists()] == []


def test_the_worked_example_of_an_operator_is_what_it_shows() -> None:
    """Each block of code follows the path of a file, and is the whole of it."""
    text = (ROOT / "docs/adding-an-operator.md").read_text(encoding="utf-8")
    shown = r"^`(\S+\.py)`:\n\n<!-- run by: tests/test_package.py -->\n```python\n(.*?)```"
    blocks = re.findall(shown, text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```python") == 3
    assert [path for path, block in blocks if (ROOT / path).read_text(encoding="utf-8") != block] == []
