"""Break the rules of operators one place at a time, and see whether the tests notice.

    python tools/fuzz/mutate_rules.py onnxsqueeze/operators/movement/slicing.py --tests tests/operators/movement
    python tools/fuzz/mutate_rules.py onnxsqueeze/operators/linear/rule.py --tests tests/operators/linear --sample 20

A mutant drops one term of an ``and``, ``or``, ``&`` or ``|`` (a liveness term, a coupling, a guard), drops a statement
that only calls something (a constraint, a pin), turns a condition around, moves an integer by one (an axis, a place),
or exchanges ``any`` and ``all``, ``min`` and ``max``. The package is copied once into a temporary folder, and each
mutant is one changed file there. Prints the survivors; the exit code is 1 if more than --allowed percent survive.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
_EXCHANGED = {"any": "all", "all": "any", "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
_LONGEST = 600  # seconds of the tests of one mutant: one that does not end counts as noticed


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each change, what it is, and the changed source."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    annotations = {id(part) for node in nodes for each in _annotations(node) for part in ast.walk(each)}
    for place, node in enumerate(nodes):
        if id(node) in annotations:
            continue
        for what in range(_changes(node)):
            copy = deepcopy(tree)
            changed = list(ast.walk(copy))[place]
            said = _change(changed, what)
            if said and _still_compiles(copy):
                yield getattr(node, "lineno", 0), said, ast.unparse(copy)


def _annotations(node: ast.AST) -> list[ast.expr]:
    """Return the types that a node declares, which nothing reads when it runs."""
    found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [each for each in found if isinstance(each, ast.expr)]


def _changes(node: ast.AST) -> int:
    """Return in how many ways a node can be broken."""
    if isinstance(node, ast.BoolOp):
        return len(node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        return 2
    if isinstance(node, ast.Constant):
        return int(type(node.value) is int and abs(node.value) < 4)
    if isinstance(node, (ast.Attribute, ast.Name)):
        return int((node.attr if isinstance(node, ast.Attribute) else node.id) in _EXCHANGED)
    return int(
        isinstance(node, (ast.If, ast.IfExp)) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    )


def _change(node: ast.AST, what: int) -> str:
    """Break a node in place, and say how."""
    if isinstance(node, ast.BoolOp):
        dropped = node.values.pop(what)
        return f"dropped: {ast.unparse(dropped)}"
    if isinstance(node, ast.BinOp):
        dropped, kept = (node.left, node.right) if what == 0 else (node.right, node.left)
        said = f"dropped: {ast.unparse(dropped)}"
        node.left, node.right, node.op = deepcopy(kept), deepcopy(kept), ast.BitAnd()
        return said
    if isinstance(node, (ast.If, ast.IfExp)):
        said = f"turned around: {ast.unparse(node.test)}"
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return said
    if isinstance(node, ast.Expr):
        said = f"dropped: {ast.unparse(node)}"
        node.value = ast.Constant(None)
        return said
    if isinstance(node, ast.Constant):
        node.value += 1
        return f"off by one: {node.value}"
    if isinstance(node, ast.Attribute):
        node.attr = _EXCHANGED[node.attr]
        return f"exchanged: {node.attr}"
    if isinstance(node, ast.Name):
        node.id = _EXCHANGED[node.id]
        return f"exchanged: {node.id}"
    return ""


def _still_compiles(tree: ast.AST) -> bool:
    try:
        compile(ast.unparse(ast.fix_missing_locations(tree)), "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def noticed(folder: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests fail in a folder."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    variables = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "ONNXSQUEEZE_STRICT": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--tests", multiple=True, required=True, help="Test files or folders that cover it; repeatable.")
@click.option("--sample", type=click.IntRange(1), help="So many mutants, drawn at random.  [default: all]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--allowed", type=float, default=2.0, show_default=True, help="Percent that may survive.")
def main(file: Path, tests: tuple[str, ...], sample: int | None, seed: int, allowed: float) -> None:
    """Break a file of rules one place at a time, and see whether the tests notice."""
    relative = file.resolve().relative_to(ROOT)
    source = file.read_text(encoding="utf-8")
    found = list(mutants(source))
    if sample is not None and sample < len(found):
        chosen = np.random.default_rng(seed).choice(len(found), sample, replace=False)
        found = [found[place] for place in sorted(chosen)]
    survivors = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for part in ("onnxsqueeze", "tests", "tools", "models"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if noticed(folder, tests):
            raise click.ClickException("the tests fail as it is")
        for line, said, mutant in found:
            (folder / relative).write_text(mutant, encoding="utf-8")
            if not noticed(folder, tests):
                survivors.append((line, said))
                print(f"{relative}:{line}: survived: {said}", flush=True)
    share = 100 * len(survivors) / max(1, len(found))
    print(f"{len(found)} mutants of {relative}, {len(survivors)} survived ({share:.0f} %)")
    sys.exit(share > allowed)


if __name__ == "__main__":
    main()
