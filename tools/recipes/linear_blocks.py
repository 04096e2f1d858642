"""What a block's best linear map is worth in its place, beside units of the block that cost as much.

    python tools/recipes/linear_blocks.py --folder NETS --network vit

For each MLP of a network of `tools/recipes/train_dense.py` prints the divergence of the network's outputs (KL, on
samples that were not fitted) when the MLP becomes its mean, the best linear map of what it reads (least squares, with a
bias), or itself with so many hidden units that it costs as many weights as the map, chosen and repaired as `squeeze`
does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxsqueeze.squeezing.least_squares import RIDGES, Elimination, Moments, Problem, solved
from tools.recipes.train_dense import NETWORKS

_FITTED, _CHECKED, _ROWS = 2048, 2048, 40_000


def mlps(module: nn.Module) -> list[nn.Module]:
    """Return the layers that have an MLP of two layers, `expand` and `project`."""
    return [layer for layer in module.modules() if hasattr(layer, "expand") and hasattr(layer, "project")]


@contextmanager
def replaced(layer: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a layer's MLP give something else of what it reads."""
    read: list[Tensor] = []
    hooks = [
        layer.expand.register_forward_pre_hook(lambda _, given: read.append(given[0])),
        layer.project.register_forward_hook(lambda *_: function(read.pop())),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rows(layer: nn.Module, module: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return what an MLP reads and what its second layer reads, at some places, float64."""
    found: list[list[Tensor]] = [[], []]
    hooks = [
        layer.expand.register_forward_hook(lambda _, given, __: found[0].append(given[0].flatten(0, -2))),
        layer.project.register_forward_hook(lambda _, given, __: found[1].append(given[0].flatten(0, -2))),
    ]
    for part in images.split(256):
        module(part)
    for hook in hooks:
        hook.remove()
    both = [torch.cat(each).double().numpy() for each in found]
    chosen = np.random.default_rng(0).permutation(len(both[0]))[:_ROWS]
    return both[0][chosen], both[1][chosen]


def linear(layer: nn.Module, read: np.ndarray, hidden: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Return the best linear map of what an MLP reads to what it gives."""
    weight, bias = (t.detach().double().numpy() for t in (layer.project.weight, layer.project.bias))
    given = hidden @ weight.T + bias
    mean, aim = read.mean(axis=0), given.mean(axis=0)
    centred = read - mean
    second = centred.T @ centred
    second.flat[:: len(second) + 1] += 1e-6 * np.trace(second) / len(second)
    found = np.linalg.solve(second, centred.T @ (given - aim))
    return lambda x: ((x.double() - torch.from_numpy(mean)) @ torch.from_numpy(found) + torch.from_numpy(aim)).float()


def narrowed(layer: nn.Module, hidden: np.ndarray, units: int) -> Callable[[Tensor], Tensor]:
    """Return the MLP with so many hidden units, those that squeeze would keep, repaired."""
    weight, bias = (t.detach().double().numpy() for t in (layer.project.weight, layer.project.bias))
    moments = Moments.empty(hidden.shape[1], changed=False)
    moments.add(hidden)
    problem = Problem(weight, bias, moments.flush())
    elimination, left = Elimination(problem), np.ones(hidden.shape[1], dtype=bool)
    while left.sum() > units:
        costs = np.where(left, elimination.costs([np.array([unit]) for unit in range(left.size)]), np.inf)
        gone = np.argsort(costs)[: max(1, min(int(left.sum()) - units, int(left.sum()) // 24))]
        left[gone] = False
        elimination.remove(gone)
    found, shift = solved(problem, np.flatnonzero(left), RIDGES[2])
    assert shift is not None
    rows, start = layer.expand.weight, layer.expand.bias
    own, added = (torch.from_numpy(array).float() for array in (found, shift))
    return lambda x: F.linear(F.gelu(F.linear(x, rows, start)), own, added)


def _divergence(module: nn.Module, images: Tensor, wanted: Tensor) -> float:
    own = torch.cat([module(part) for part in images.split(256)]).log_softmax(1)
    return float(F.kl_div(own, wanted, reduction="batchmean", log_target=True))


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True), required=True, help="Of train_dense.py.")
@click.option("--network", type=click.Choice(("vit", "convnext")), required=True)
@torch.no_grad()
def main(folder: Path, network: str) -> None:
    """Print the divergences, a line for each MLP."""
    module = NETWORKS[network].build()
    module.load_state_dict(torch.load(folder / f"{network}.pt", weights_only=True))
    module.eval()
    with np.load(folder / f"{network}.npz") as file:
        images = torch.from_numpy(file["image"][: _FITTED + _CHECKED])
    fitted, checked = images[:_FITTED], images[_FITTED:]
    wanted = torch.cat([module(part) for part in checked.split(256)]).log_softmax(1)
    click.echo("| MLP | width | mean | linear map | as many weights in hidden units |\n|---|---:|---:|---:|---:|")
    for number, layer in enumerate(mlps(module), 1):
        read, hidden = _rows(layer, module, fitted)
        width = read.shape[1]
        mean = torch.from_numpy(hidden.mean(axis=0)).float()
        constant = F.linear(mean, layer.project.weight, layer.project.bias)
        ways = (
            lambda x, constant=constant: constant.expand(*x.shape[:-1], -1),
            linear(layer, read, hidden),
            narrowed(layer, hidden, width // 2),
        )
        cells = []
        for way in ways:
            with replaced(layer, way):
                cells.append(f"{_divergence(module, checked, wanted):.4f}")
        click.echo(f"| {number} | {width} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
