"""Minimize a part of the backend tests and say what became of them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto

from .cases import SUITES, load_cases
from .judging import judge
from .masking import MASKS, VARIANTS
from .pool import Task, judge_all
from .survey import Survey


def main() -> int:
    """Run the command line; return 1 if a case failed."""
    options = _options()
    tasks = _tasks(options.filter, options.suite, options.variant)
    began = time.perf_counter()
    if options.save:
        outcomes = [judge(*task, inspect=_saver(options.save, task)) for task in tasks]
    else:
        outcomes = sorted(judge_all(tasks, options.jobs), key=lambda outcome: (outcome.key, outcome.variant))
    survey = Survey(outcomes)
    for outcome in outcomes if options.verbose else ():
        sizes = f"{outcome.before} -> {outcome.after} weight elements" if outcome.engine else "not compared"
        print(f"{outcome.key} [{outcome.variant}]: {sizes} {outcome.failure} {outcome.message}".rstrip())
    print("\n".join([*survey.failures, survey.summary(), f"  {time.perf_counter() - began:.0f} s"]))
    return 1 if survey.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.end_to_end.backend", description=__doc__)
    parser.add_argument("--filter", default="", help="only cases whose name has this in it")
    parser.add_argument("--suite", choices=SUITES, help="only this suite")
    parser.add_argument("--variant", choices=("all", "masked", *VARIANTS), default="all", help="only this variant")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the models there; all runs in one process")
    return parser.parse_args()


def _tasks(name: str, suite: str | None, variant: str) -> list[Task]:
    variants = {"all": VARIANTS, "masked": tuple(MASKS)}.get(variant, (variant,))
    cases = [case for case in load_cases().values() if name in case.name and suite in (None, case.suite)]
    return [(case.key, chosen) for case in cases for chosen in variants]


def _saver(folder: Path, task: Task) -> Callable[[str, ModelProto], None]:
    folder.mkdir(parents=True, exist_ok=True)
    stem = "-".join(task).replace("/", "-")

    def save(kind: str, model: ModelProto) -> None:
        onnx.save(model, folder / f"{stem}-{kind}.onnx")

    return save


if __name__ == "__main__":
    sys.exit(main())
