"""What the recipes' command lines share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from tools.recipes.recipe import Outcome
from tools.recipes.tables import front, over_seeds, within

DATA_VARIABLE = "ONNXSQUEEZE_DATA"


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data, --folder, --seeds and --threads."""
    for option in reversed(
        [
            click.option(
                "--data",
                type=click.Path(path_type=Path, file_okay=False),
                default=lambda: os.environ.get(DATA_VARIABLE, "data"),
                help=f"The folder of the data set; by default ${DATA_VARIABLE}.",
            ),
            click.option("--folder", type=click.Path(path_type=Path), default=Path("runs"), show_default=True),
            click.option("--seeds", default=1, show_default=True, help="How many, from 0."),
            click.option(
                "--threads", default=0, callback=_set_threads, expose_value=False, help="Of torch; 0 for all."
            ),
        ]
    ):
        command = option(command)
    return command


def _set_threads(context: click.Context, parameter: click.Parameter, value: int) -> None:
    if value:
        torch.set_num_threads(value)


def device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def conclude(outcomes: Sequence[Outcome], drops: Sequence[float]) -> None:
    """Print the fronts, their means over seeds, and what is smallest within each drop."""
    print("\n\n".join([front(outcomes), over_seeds(outcomes), within(outcomes, drops)]))
