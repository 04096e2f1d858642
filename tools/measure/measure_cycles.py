"""Measure whether a network trains faster with every cycle of a run.

    python tools/measure/measure_cycles.py WORKDIR

prints for the network of each cycle its weight elements and the median time of a training step (forward, backward,
AdamW) on random inputs, as milliseconds and as a ratio to the network that the run began with. Steps are taken in
turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.training.module import OnnxModule, from_onnx
from tools.measure.measure_training_step import stepper

_WARM = 2


def inputs_of(module: OnnxModule, batch: int) -> Tensor:
    """Return random float32 inputs, ``batch`` in place of dynamic sizes."""
    (value,) = (value for value in module.model.skeleton.graph.input if value.name in module.input_names)
    return torch.randn([dim.dim_value or batch for dim in value.type.tensor_type.shape.dim])


@click.command()
@click.argument("workdir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--batch", default=128, show_default=True)
@click.option("--steps", default=12, show_default=True, help="Of each network.")
@click.option("--threads", default=1, show_default=True)
def main(workdir: Path, batch: int, steps: int, threads: int) -> None:
    """Measure the networks of all cycles."""
    torch.set_num_threads(threads)
    modules = {path.parent.name: from_onnx(path).train() for path in sorted(workdir.glob("cycle-*/network.onnx"))}
    takers: dict[str, Callable[[], float]] = {
        name: stepper(module, inputs_of(module, batch)) for name, module in modules.items()
    }
    times: dict[str, list[float]] = {name: [] for name in modules}
    for turn in track(range(steps + _WARM), transient=True, disable=not Console().is_terminal):
        for name, step in takers.items():
            seconds = step()
            if turn >= _WARM:
                times[name].append(seconds)
    table = Table("cycle", "weight elements", "ms a step", "ratio", box=None)
    first = next(iter(times.values()))
    for name, found in times.items():
        ratio = statistics.median(own / other for own, other in zip(found, first, strict=True))
        milliseconds = f"{1e3 * statistics.median(found):.2f}"
        table.add_row(name, f"{weight_elements(modules[name].model):,}", milliseconds, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
