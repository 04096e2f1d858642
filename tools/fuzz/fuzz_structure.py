"""Minimize random graphs, written in several ways, and hold the result against what must be true of any.

    python tools/fuzz/fuzz_structure.py                          # 300 graphs
    python tools/fuzz/fuzz_structure.py --graphs 20000 --jobs 2  # the nightly run
    python tools/fuzz/fuzz_structure.py --seed 4711 --graphs 1   # one again

The graphs are those of the tests' generators (convolutional and fully connected ones, tokens with attention and
recurrent layers), whose layers cover most operators that have a rule. Each is checked as it is, with extreme constants
(infinities, NaN, 1e30), with its nodes in another valid order, with other names, with weights that layers share, in
another floating-point type, with some nodes in a function or in branches, and as a file with external data:

- the signature is the same to the byte, and the result is valid;
- the outputs are the same in onnxruntime, infinities and NaN where they were;
- there are no more weight elements and no more bytes;
- another order and other names change nothing about what is left;
- a second run finds nothing more.

A graph that fails is written to the folder given by --keep. The exit code is 1 if any did.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import ModelProto
from rich.console import Console
from rich.table import Table

import onnxsqueeze as sq
from tests.end_to_end.random_networks.generator import random_network
from tests.end_to_end.random_networks.token_generator import random_token_network
from tests.support.planted.checks import draw, run, signature, size, weights
from tools.fuzz.variations import VARIATIONS

_THE_SAME = ("reordered", "renamed")
"""Variations that are the same network in as many bytes, of which the same is left."""
_TOLERANCE = {np.dtype(np.float32): 2e-3, np.dtype(np.float16): 1e-1, np.dtype(np.float64): 1e-8}
"""Of the output's scale. Extreme constants leave some outputs far from the rest: what rounding does grows with them."""


@dataclass(frozen=True)
class Verdict:
    """What became of one graph in one variation; ``failure`` is "" where all holds."""

    seed: int
    variation: str
    failure: str
    smaller: bool = False
    compared: bool = True


def graph_of(seed: int) -> tuple[ModelProto, list[dict[str, np.ndarray]]]:
    """Return a random graph and inputs of two sizes."""
    if seed % 2:
        made = random_network(seed // 2)
        pairs = zip((1, 3), made.extents, strict=True)
        return made.model, [draw(made.model, batch, extent) for batch, extent in pairs]
    tokens = random_token_network(seed // 2)
    return tokens.model, list(tokens.feeds)


def judged(seed: int, names: Collection[str] = tuple(VARIATIONS)) -> list[Verdict]:
    """Check one graph in some variations, first of all as it is."""
    model, feeds = graph_of(seed)
    plain: ModelProto | None = None
    verdicts = []
    for number, (name, vary) in enumerate(VARIATIONS.items()):
        if name not in names:
            continue
        varied = ModelProto()
        varied.CopyFrom(model)
        vary(varied, np.random.default_rng([seed, number]))
        try:
            verdict, result = _checked(seed, name, varied, feeds, plain)
        except Exception:
            verdict, result = Verdict(seed, name, traceback.format_exc(limit=-3)), None
        if name == "as it is":
            plain = result
        verdicts.append(verdict)
    return verdicts


def _checked(
    seed: int, name: str, model: ModelProto, feeds: list[dict[str, np.ndarray]], plain: ModelProto | None
) -> tuple[Verdict, ModelProto | None]:
    before = [_outputs(model, each) for each in feeds]
    compared = any(outputs is not None for outputs in before)
    try:
        result, given = _minimized(name, model)
    except sq.InvalidModelError:
        if compared:
            raise
        return Verdict(seed, name, "", compared=False), None  # no runtime takes it
    smaller = size(result) < size(model)
    failure = _failure(name, model, result, plain, given)
    if not failure and (again := size(sq.minimize(result, round_to=1, verify=False).model)) < size(result):
        failure = f"a second run finds more: {again} of {size(result)} elements"
    for each, expected in zip(feeds, before, strict=True):
        if expected is not None and not failure:
            failure = _difference(expected, _outputs(result, each))
    return Verdict(seed, name, failure, smaller, compared), result


def _minimized(name: str, model: ModelProto) -> tuple[ModelProto, int]:
    """Minimize a model, for "external" as a file with its weights beside it; return its bytes as given, too."""
    if name != "external":
        return sq.minimize(model, round_to=1, verify=False).model, model.ByteSize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        copy = ModelProto.FromString(model.SerializeToString())  # what is saved loses its data
        onnx.save(copy, path, save_as_external_data=True, location="w.data", size_threshold=0)
        given = sum(each.stat().st_size for each in Path(folder).iterdir())
        return sq.minimize(path, round_to=1, verify=False).model, given


def _failure(name: str, model: ModelProto, result: ModelProto, plain: ModelProto | None, given: int) -> str:
    if signature(model) != signature(result):
        return "another signature"
    onnx.checker.check_model(result)
    if size(result) > size(model):
        return f"more elements: {size(result)} after {size(model)}"
    if result.ByteSize() > given:
        return f"more bytes: {result.ByteSize()} after {given}"
    if name in _THE_SAME and plain is not None and weights(result) != weights(plain):
        return f"what is left depends on how it is written: {weights(result)} instead of {weights(plain)}"
    return ""


def _outputs(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """Return the outputs, None where onnxruntime does not take the model."""
    try:
        return run(model, feeds)
    except Exception:
        return None


def _difference(expected: list[np.ndarray], actual: list[np.ndarray] | None) -> str:
    if actual is None:
        return "onnxruntime does not take the result"
    for before, after in zip(expected, actual, strict=True):
        if before.dtype.kind != "f":
            continue  # selections among what rounding cannot tell apart
        if before.shape != after.shape:
            return f"another shape: {after.shape} after {before.shape}"
        finite = np.isfinite(before)
        scale = np.abs(before[finite]).max(initial=0.0) + 1e-30
        if scale > 1e25:
            continue  # what such numbers cancel to is rounding
        if finite.all() and not np.isfinite(after).all():
            return "infinities or NaN where there were none"
        both = finite & np.isfinite(after)
        off = np.abs(before[both].astype(np.float64) - after[both].astype(np.float64)).max(initial=0.0) / scale
        if off > _TOLERANCE[before.dtype]:
            return f"off by {off:.2g} of the output's scale"
    return ""


def verdicts(first: int, graphs: int, jobs: int) -> Iterator[list[Verdict]]:
    """Yield the verdicts of a range of seeds."""
    seeds = range(first, first + graphs)
    if jobs == 1:
        yield from map(judged, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(judged, seeds, chunksize=8)


@click.command()
@click.option("--graphs", type=click.IntRange(1), default=300, show_default=True, help="How many graphs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The seed of the first.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the graphs that failed.")
def main(graphs: int, seed: int, jobs: int, keep: Path | None) -> None:
    """Minimize random graphs and hold the results against what must be true of any."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("ONNXSQUEEZE_STRICT", "1")
    console, failed = Console(), []
    counts: dict[str, Counter[str]] = {name: Counter() for name in VARIATIONS}
    for found in verdicts(seed, graphs, jobs):
        for verdict in found:
            count = counts[verdict.variation]
            count.update(graphs=1, smaller=verdict.smaller, failed=bool(verdict.failure))
            count.update(compared=verdict.compared)
            if verdict.failure:
                failed.append(verdict)
                console.print(f"[bold]seed {verdict.seed}, {verdict.variation}[/]: {verdict.failure}", highlight=False)
                if keep is not None:
                    _write(verdict, keep)
    console.print(_table(counts))
    sys.exit(1 if failed else 0)


def _write(verdict: Verdict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model, _ = graph_of(verdict.seed)
    number = list(VARIATIONS).index(verdict.variation)
    VARIATIONS[verdict.variation](model, np.random.default_rng([verdict.seed, number]))
    onnx.save(model, folder / f"{verdict.seed}-{verdict.variation.replace(' ', '-')}.onnx")


def _table(counts: dict[str, Counter[str]]) -> Table:
    table = Table("graphs", "count", "compared", "smaller", "failed", title="random graphs")
    for name, count in counts.items():
        table.add_row(name, *(str(count[key]) for key in ("graphs", "compared", "smaller", "failed")))
    return table


if __name__ == "__main__":
    main()
