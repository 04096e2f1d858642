"""What release is worth: the same squeezes with and without it, from the same networks, with equal training.

    python tools/recipes/compare_release.py --data mnist.npz --folder runs/release        # a table with mean and spread

Release turns the zeros inside the tensors of a minimized network into small noise before the next cycle. So it matters
most where single weights go; whole units leave no zeros. Nothing is chosen, so the test images are used once, at the
end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tools.recipes.comparing import Comparison, Way, compared, images
from tools.recipes.recipe import Outcome
from tools.recipes.tables import cell, lost_by_cycle, markdown, spread

_SQUEEZES: Mapping[str, Mapping[str, Any]] = {
    "single weights by magnitude": {"criterion": "magnitude"},
    "whole units": {"criterion": "units"},
    "units, and half as single weights": {"criterion": "units", "weights": 0.5},
    "the same, finishing off units": {"criterion": "units", "weights": 0.5, "finish_off": True},
}
_WITH, _WITHOUT = ", with release", ", without"


def ways() -> list[Way]:
    """Return each squeeze without and with release."""
    endings = {_WITHOUT: False, _WITH: True}
    return [
        Way(name + ending, {**options, "release": release})
        for name, options in _SQUEEZES.items()
        for ending, release in endings.items()
    ]


def table(found: Mapping[str, Sequence[Outcome]]) -> str:
    """Return a markdown table: the last cycle without and with release, and what release gained, seed by seed."""
    rows = [["squeeze", "without: ratio, points to dense", "with: ratio, points to dense", "gain in points"]]
    for name in _SQUEEZES:
        without, with_ = (lost_by_cycle(found[name + ending])[-1] for ending in (_WITHOUT, _WITH))
        gains = [after - before for (_, before), (_, after) in zip(without, with_, strict=True)]
        rows.append([name, cell(without), cell(with_), spread(gains, "+.2f")])
    return markdown(rows)


@click.command()
@click.option("--ratio", default=24.0, show_default=True, help="What the last cycle goes for, zeros not counted.")
@compared
def main(data: Path, folder: Path, seeds: int, cycles: int, epochs: float, ratio: float) -> None:
    """Squeeze with and without release and print what came out."""
    found = Comparison(images(data), folder, seeds, ratio, cycles, epochs).run(ways())
    dense = [100 * outcome.dense_test for outcome in next(iter(found.values()))]
    click.echo(f"\ndense: {spread(dense, '.2f')} %\n\n{table(found)}")


if __name__ == "__main__":
    main()
