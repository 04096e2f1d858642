"""Several ways to squeeze one trained network, side by side: each from the same dense network, with equal training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tools.recipes.data import Data, mnist
from tools.recipes.fitting import Loop
from tools.recipes.networks import fully_connected
from tools.recipes.options import DATA_VARIABLE, _set_threads, device
from tools.recipes.recipe import Outcome, Recipe, Schedule

if TYPE_CHECKING:
    from onnxsqueeze.training import Phase

WIDTHS = (784, 300, 100, 10)
_DENSE_EPOCHS = 8


@dataclass(frozen=True)
class Way:
    """One way to squeeze: the arguments of `SqueezeRelease`."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What is the same for all ways.

    Attributes:
        data, folder, seeds: of all runs. ratio, cycles: what each goes for. epochs: of training in each cycle.
        widths: of the network.
    """

    data: Data
    folder: Path
    seeds: int
    ratio: float
    cycles: int
    epochs: float
    widths: Sequence[int] = WIDTHS

    def run(self, ways: Sequence[Way]) -> dict[str, list[Outcome]]:
        """Run all ways for all seeds, or go on with them; return the outcomes by way."""
        found: dict[str, list[Outcome]] = {way.name: [] for way in ways}
        for seed in range(self.seeds):
            dense = self._recipe(Way("dense", {}))
            start = dense.place(self.folder, seed)
            dense.trained_dense(start, seed)
            for way in ways:
                outcome = self._recipe(way).run(self.folder, seed, start)
                found[way.name].append(outcome)
                last = outcome.points[-1]
                click.echo(f"{way.name} seed {seed}: {last.ratio:.1f}x at {last.test:.2%}, {outcome.seconds:.0f} s")
        return found

    def _recipe(self, way: Way) -> Recipe:
        return Recipe(
            name=way.name,
            build=lambda: fully_connected(self.widths),
            data=self.data,
            dense=Loop(_DENSE_EPOCHS),
            squeezed=even(self.epochs),
            goals=[(self.cycles, self.ratio)],
            options={"round_to": 1, "progress": False, **way.options},
        )


def even(epochs: float) -> Schedule:
    """Return a schedule that gives each cycle the same epochs, whether or not it has a phase before the masks."""

    def loop(phase: Phase) -> Loop:
        mark = phase.workdir / "two-phases"  # a file, so that a run that is stopped in between goes on alike
        if phase.kind != "squeeze":
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        return Loop(epochs / 2 if mark.exists() else epochs, learning_rate=2e-3)

    return loop


def compared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a comparison."""
    for option in reversed(
        [
            click.option(
                "--data",
                type=click.Path(path_type=Path, exists=True),
                envvar=DATA_VARIABLE,
                required=True,
                help=f"mnist.npz or the folder that holds it; by default ${DATA_VARIABLE}.",
            ),
            click.option("--folder", type=click.Path(path_type=Path), required=True, help="For all that is written."),
            click.option("--seeds", default=3, show_default=True, help="How many, from 0."),
            click.option("--cycles", default=4, show_default=True),
            click.option("--epochs", default=2.0, show_default=True, help="Of training in each cycle."),
            click.option("--threads", default=1, show_default=True, callback=_set_threads, expose_value=False),
        ]
    ):
        command = option(command)
    return command


def images(path: Path) -> Data:
    """Read MNIST as rows, from the file or from the folder that holds it."""
    return mnist(path.parent if path.is_file() else path).flattened().to(device())
