"""All criteria side by side on one fully connected network: test accuracy against how much smaller the file is.

    python tools/recipes/compare_criteria.py --data mnist.npz --folder runs/criteria  # a table, and criteria.png there

Criteria of single weights are measured by what the minimizer gets out of their masks, and once more at the level of
units, where the structure is the same as that of the criterion "units". All start from the same dense networks, which
teach them, train equally long, and use no release. Nothing is chosen, so the test images are used once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from onnxsqueeze.training.criteria import UNITS, criteria_names
from tools.recipes.comparing import Comparison, Way, compared, images
from tools.recipes.recipe import Outcome
from tools.recipes.tables import by_cycle, cell, lost_by_cycle, markdown, spread

_WHOLE = "whole units by "


def ways() -> list[Way]:
    """Return the criterion of units, and every other one for single weights and for units."""
    names = [name for name in criteria_names() if name != UNITS]
    single = [Way(name, {"criterion": name, "release": False}) for name in names]
    whole = [Way(_WHOLE + name, {"criterion": name, "release": False, "structured": True}) for name in names]
    return [Way(UNITS, {"criterion": UNITS, "release": False}), *whole, *single]


def table(found: Mapping[str, Sequence[Outcome]]) -> str:
    """Return a markdown table: for each criterion and cycle the ratio and the points lost on the test images."""
    lost = {name: lost_by_cycle(outcomes) for name, outcomes in found.items()}
    cycles = max(len(points) for points in lost.values())
    head = ["criterion", *(f"cycle {cycle + 1}: ratio, points to dense" for cycle in range(cycles))]
    rows = [[name, *map(cell, points), *["-"] * (cycles - len(points))] for name, points in lost.items()]
    return markdown([head, *rows])


def plot(found: Mapping[str, Sequence[Outcome]], path: Path) -> None:
    """Draw the mean over seeds of accuracy against ratio; dashed for single weights."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6))
    colours: dict[str, str] = {}
    for name, outcomes in found.items():
        kind = name.removeprefix(_WHOLE)
        colour = colours.setdefault(kind, f"C{len(colours)}")
        points = by_cycle(outcomes)
        ratios = [sum(point.ratio for point in own) / len(own) for own in points]
        accuracy = [100 * sum(point.test for point in own) / len(own) for own in points]
        whole = name == UNITS or name.startswith(_WHOLE)
        axes.plot(
            ratios, accuracy, "o-" if whole else "x--", color=colour, label=name, linewidth=3 if name == UNITS else 1
        )
    axes.set_xscale("log")
    axes.set_xlabel("times fewer weight elements in the minimized file")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


@click.command()
@click.option("--ratio", default=24.0, show_default=True, help="What the last cycle goes for.")
@compared
def main(data: Path, folder: Path, seeds: int, cycles: int, epochs: float, ratio: float) -> None:
    """Squeeze by each criterion and print what came out."""
    found = Comparison(images(data), folder, seeds, ratio, cycles, epochs).run(ways())
    dense = [outcome.dense_test for outcome in next(iter(found.values()))]
    click.echo(f"\ndense: {spread([100 * value for value in dense], '.2f')} %\n\n{table(found)}")
    plot(found, folder / "criteria.png")
    click.echo(f"\nplot: {folder / 'criteria.png'}")


if __name__ == "__main__":
    main()
