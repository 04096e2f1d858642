"""Break the rules of operators one place at a time, and see whether the tests notice.

    python tools/fuzz/mutate_rules.py onnxsqueeze/operators/movement/slicing.py
    python tools/fuzz/mutate_rules.py onnxsqueeze/operators/linear/*.py --sample 5
    python tools/fuzz/mutate_rules.py onnxsqueeze/planning/counts.py --tests tests/planning

A mutant drops one term of an ``and``, ``or``, ``&`` or ``|`` (a liveness term, a coupling, a guard), drops a statement
that only calls something (a constraint, a pin), turns a condition around, moves an integer by one (an axis, a place),
or exchanges ``any`` and ``all``, ``min`` and ``max``. The package is copied once into a temporary folder, and each
mutant is one changed file there. The tests are those of the file's family and those that are named after it, unless
others are given; of them each mutant meets those that run its line. Prints the survivors; the exit code is 1 if more
than --allowed percent survive.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import click
import numpy as np

from tools.fuzz.covering import LOG, Reached, passes, reached

ROOT = Path(__file__).resolve().parents[2]
_EXCHANGED = {"any": "all", "all": "any", "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
_TAIL = 3000  # characters of what tests say that fail


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


def tests_for(file: Path) -> list[str]:
    """Return the tests of the family that a file of rules belongs to, and others that are named after the file."""
    family = ROOT / "tests" / "operators" / file.resolve().parent.name
    own = sorted(family.glob("test_*.py")) if family.is_dir() else []
    others = sorted(path for path in (ROOT / "tests").rglob(f"test_{file.stem}*.py") if path not in own)
    return [str(path.relative_to(ROOT)) for path in (*own, *others)]


Mutants = Sequence[tuple[int, str, str]]


def survivors(found: Mapping[Path, Mutants], tests: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield each file with the changes to it that no test notices: their lines, and what they are."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for part in ("onnxsqueeze", "tests", "tools", "models"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        known = reached(folder, list(found), tests)
        if known is None:
            raise click.ClickException(
                f"the tests fail as it is:\n{(folder / LOG).read_text(encoding='utf-8')[-_TAIL:]}"
            )
        for file, broken in found.items():
            source = (folder / file).read_text(encoding="utf-8")
            yield file, list(_survivors(folder, file, broken, known[file]))
            (folder / file).write_text(source, encoding="utf-8")


def _survivors(folder: Path, file: Path, broken: Mutants, known: Reached) -> Iterator[str]:
    for line, said, mutant in broken:
        chosen = known.tests_of(line)
        (folder / file).write_text(mutant, encoding="utf-8")
        if passes(folder, chosen, sum(known.seconds[test] for test in chosen)):
            print(f"{file}:{line}: survived: {said} ({len(chosen)} tests)", flush=True)
            yield said


def _drawn(file: Path, sample: int | None, seed: int) -> Mutants:
    found = list(mutants(file.read_text(encoding="utf-8")))
    if sample is None or sample >= len(found):
        return found
    chosen = np.random.default_rng(seed).choice(len(found), sample, replace=False)
    return [found[place] for place in sorted(chosen)]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tests", multiple=True, help="Test files or folders that cover them; repeatable.  [default: see above]")
@click.option("--sample", type=click.IntRange(1), help="So many mutants of each, drawn at random.  [default: all]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--allowed", type=float, default=2.0, show_default=True, help="Percent that may survive.")
def main(files: tuple[Path, ...], tests: tuple[str, ...], sample: int | None, seed: int, allowed: float) -> None:
    """Break files of rules one place at a time, and see whether the tests notice."""
    os.environ.update(OMP_NUM_THREADS="1", ONNXSQUEEZE_STRICT="1")
    found = {file.resolve().relative_to(ROOT): _drawn(file, sample, seed) for file in files}
    chosen = tests or sorted({test for file in files for test in tests_for(file)})
    left = 0
    for file, survived in survivors({file: broken for file, broken in found.items() if broken}, chosen):
        print(f"{len(found[file])} mutants of {file}, {len(survived)} survived", flush=True)
        left += len(survived)
    total = sum(map(len, found.values()))
    share = 100 * left / max(1, total)
    print(f"{total} mutants, {left} survived ({share:.1f} %)")
    sys.exit(share > allowed)


if __name__ == "__main__":
    main()
