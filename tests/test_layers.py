"""The packages lie in layers: every import is held against the table in the package's docstring."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnxsqueeze
from tools.docs.draw_architecture import PICTURE, WAY, picture, table

ROOT = Path(__file__).resolve().parent.parent
_ROW = re.compile(r"^\| (\d+) \| (`\w+`(?:, `\w+`)*) \|", re.MULTILINE)
_APART = {"rules", "graph", "coupling", "shapes", "operators"}  # verification shares no code with these


def modules() -> dict[str, Path]:
    """Return the files of the package by the name of their module."""
    paths = (ROOT / "onnxsqueeze").rglob("*.py")
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(path: Path) -> set[str]:
    """Return all that a file imports, wherever it does so, as dotted names down to what is taken from a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports() -> list[tuple[str, str]]:
    """Return (module, module that it imports) for all imports inside of the package."""
    known = modules()
    pairs = []
    for name, path in known.items():
        for target in imports(path):
            if target.split(".")[0] == "onnxsqueeze":
                pairs.append((name, target if target in known else target.rpartition(".")[0]))
    return pairs


def package(module: str) -> str:
    """Return the package right below the top that a module belongs to."""
    return (module.split(".") + ["onnxsqueeze"])[1] if "." in module else "onnxsqueeze"


def test_every_package_has_a_layer_and_a_purpose() -> None:
    assert table(str(onnxsqueeze.__doc__)).keys() == {package(name) for name in modules()} - {"__main__"}
    for name, path in modules().items():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name} does not say what it is for"


def test_contributing_shows_the_same_table() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert table(contributing) == table(str(onnxsqueeze.__doc__))


def test_the_page_of_the_architecture_shows_it_too() -> None:
    """As a table, and as a drawing with the way of a model, of which the page has the same steps."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    shown = {name.strip("` "): int(layer) for layer, names in _ROW.findall(page) for name in names.split(",")}
    assert shown == {name: layer for name, layer in table(str(onnxsqueeze.__doc__)).items() if name != "_version"}
    assert PICTURE.read_text(encoding="utf-8") == picture(), "run python tools/docs/draw_architecture.py"
    steps = re.findall(r"^\d\. .*?`(\w+)[.`]", page, re.MULTILINE)
    assert steps == list(WAY)


def test_nothing_but_the_entry_lies_at_the_top() -> None:
    names = {path.name for path in (ROOT / "onnxsqueeze").glob("*.py")}
    assert names == {"__init__.py", "__main__.py", "_version.py", "errors.py"}


def test_no_file_imports_from_its_own_layer_or_a_higher_one() -> None:
    layers = table(str(onnxsqueeze.__doc__))
    wrong = [
        (module, target)
        for module, target in own_imports()
        if (own := package(module)) != "__main__" and own != package(target)
        if layers[own] <= layers[package(target)]
        and not (own == "onnxsqueeze" and layers[package(target)] < layers["onnxsqueeze"])
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, target in own_imports():
        graph.setdefault(module, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_only_the_frontend_imports_the_operators() -> None:
    users = {module for module, target in own_imports() if package(target) == "operators" != package(module)}
    assert users == {"onnxsqueeze.pipeline.frontend"}


def test_verification_shares_no_code_with_the_rules() -> None:
    shared = [pair for pair in own_imports() if package(pair[0]) == "verification" and package(pair[1]) in _APART]
    assert shared == []


def test_only_training_imports_torch() -> None:
    users = [name for name, path in modules().items() if any(each.split(".")[0] == "torch" for each in imports(path))]
    assert users and {package(name) for name in users} == {"training"}
