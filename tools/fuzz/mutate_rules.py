"""Break the rules of operators one place at a time, and see whether the tests notice.

    python tools/fuzz/mutate_rules.py onnxsqueeze/operators/movement/slicing.py
    python tools/fuzz/mutate_rules.py onnxsqueeze/operators/linear/*.py --sample 5
    python tools/fuzz/mutate_rules.py onnxsqueeze/planning/counts.py --tests tests/planning

A mutant drops one term of an ``and``, ``or``, ``&`` or ``|`` (a liveness term, a coupling, a guard), drops a statement
that only calls something (a constraint, a pin), turns a condition around, moves an integer by one (an axis, a place),
or exchanges ``any`` and ``all``, ``min`` and ``max``. The package is copied once into a temporary folder, and each
mutant is one changed file there. The tests are those of the file's family, those that are named after it, and those
that hold all rules against onnx, unless others are given; of them each mutant meets those that run its line. Prints
the survivors; the exit code is 1 if more than --allowed percent survive.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from tools.fuzz.breaking import Mutant, mutants
from tools.fuzz.covering import LOG, reached, unnoticed

ROOT = Path(__file__).resolve().parents[2]
_FOR_ALL = ("values", "halves", "planted_units", "carries", "defaults")  # tests that know no operator
_TAIL = 3000  # characters of what tests say that fail


def tests_for(file: Path) -> list[str]:
    """Return the tests of the family that a file of rules belongs to, and others that are named after the file."""
    family = ROOT / "tests" / "operators" / file.resolve().parent.name
    own = sorted(family.glob("test_*.py")) if family.is_dir() else []
    named = (ROOT / "tests").glob(f"*/**/test_{file.stem}*.py")  # those of the package as a whole need all of it
    others = sorted(path for path in named if path not in own)
    kinds = [ROOT / "tests" / "rules" / f"test_{name}.py" for name in _FOR_ALL]
    return [str(path.relative_to(ROOT)) for path in dict.fromkeys([*own, *others, *kinds])]


def survivors(found: Mapping[Path, Sequence[Mutant]], tests: Sequence[str], most: float) -> Iterator[tuple[Path, int]]:
    """Yield each file with the number of changes to it that no test notices; print where they are, and what."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        for part in ("onnxsqueeze", "tests", "tools", "models"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        known = reached(folder, list(found), tests)
        if known is None:
            raise click.ClickException(
                f"the tests fail as it is:\n{(folder / LOG).read_text(encoding='utf-8')[-_TAIL:]}"
            )
        for file, broken in found.items():
            left = 0
            for mutant in unnoticed(folder, file, broken, known[file], most):
                left += 1
                count = len(known[file].tests_of(mutant.statement, most))
                print(f"{file}:{mutant.line}: survived: {mutant.said} ({count} tests)", flush=True)
            yield file, left


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tests", multiple=True, help="Test files or folders that cover them; repeatable.  [default: see above]")
@click.option("--sample", type=click.IntRange(1), help="So many mutants of each, drawn at random.  [default: all]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--seconds", type=float, default=30.0, show_default=True, help="CPU time of the tests that a mutant meets."
)
@click.option("--allowed", type=float, default=2.0, show_default=True, help="Percent that may survive.")
def main(
    files: tuple[Path, ...], tests: tuple[str, ...], sample: int | None, seed: int, seconds: float, allowed: float
) -> None:
    """Break files of rules one place at a time, and see whether the tests notice."""
    os.environ.update(OMP_NUM_THREADS="1", ONNXSQUEEZE_STRICT="1")
    found = {
        file.resolve().relative_to(ROOT): list(mutants(file.read_text(encoding="utf-8"), sample, seed))
        for file in files
    }
    chosen = tests or sorted({test for file in files for test in tests_for(file)})
    left = 0
    for file, survived in survivors({file: broken for file, broken in found.items() if broken}, chosen, seconds):
        print(f"{len(found[file])} mutants of {file}, {survived} survived", flush=True)
        left += survived
    total = sum(map(len, found.values()))
    share = 100 * left / max(1, total)
    print(f"{total} mutants, {left} survived ({share:.1f} %)")
    sys.exit(share > allowed)


if __name__ == "__main__":
    main()
