"""Single weights by magnitude, without and with release, and with a penalty under which units die: 784-1024-1024-10.

    python tools/recipes/compare_regimes.py --data mnist.npz --folder runs/regimes --cycles 15 --epochs 1

Each cycle prunes to a share of the size that the network has by then: single weights go until the file is as much
smaller as in every other cycle. What stays of the file is dense again where release is on, and stays zero where it is
not; all get the same sizes of files, epochs and teacher, so that accuracy decides.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from tools.recipes.comparing import Comparison, Way, compared, images
from tools.recipes.tables import cell, lost_by_cycle, markdown, spread

_WIDTHS = (784, 1024, 1024, 10)
_REGIMES: dict[str, dict[str, Any]] = {
    "without release": {"release": False},
    "without release, penalty": {"release": False, "sparing": 1e-3},
    "with release": {"release": True, "sparing": 0.0},
    "with release, penalty": {"release": True, "sparing": 1e-3},
}


@click.command()
@click.option("--regime", "names", type=click.Choice(list(_REGIMES)), multiple=True, help="By default all.")
@click.option("--ratio", default=39.0, show_default=True, help="The file of the last cycle to that of the dense one.")
@compared
def main(
    data: Path, folder: Path, seeds: int, cycles: int, epochs: float, ratio: float, names: tuple[str, ...]
) -> None:
    """Squeeze in each regime and print what came out of every cycle."""
    ways = [Way(name, {"criterion": "magnitude", **_REGIMES[name]}) for name in names or _REGIMES]
    found = Comparison(images(data), folder, seeds, ratio, cycles, epochs, _WIDTHS).run(ways)
    by_way = {name: lost_by_cycle(outcomes) for name, outcomes in found.items()}
    cells = zip_longest(*([cell(points) for points in own] for own in by_way.values()), fillvalue="-")
    rows = [["cycle", *by_way], *([str(cycle), *row] for cycle, row in enumerate(cells, 1))]
    dense = [100 * outcome.dense_test for outcome in next(iter(found.values()))]
    click.echo(f"\ndense: {spread(dense, '.2f')} %\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
