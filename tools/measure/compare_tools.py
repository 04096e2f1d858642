"""Give networks with dead units to other tools, too: what is left of the weights, and how far the outputs are off.

    pip install . onnxscript onnxslim onnxsim torch-pruning torch==2.13.0      # in an environment of its own
    python tools/measure/compare_tools.py

Half of the units of every layer and of every residual stream have no incoming weights, at random places; that is the
mask that suits all tools best, since layers that share a stream agree. Biases and the shifts of BatchNormalization
stay, as pruning libraries leave them, or are zero for those units as well. Tools that are not installed are left out.

Torch-Pruning is told which units are dead and removes them with all that its dependency graph couples to them;
onnxsim's structured pruning chooses by itself, and is asked for half. Deviations are shares of the output's scale in
onnxruntime on random images. Only where one is at the level of rounding is the network the same function.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import onnxsqueeze
from tools.models import masks, networks
from tools.models.exporting import export

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (lambda: networks.mlp((512, 256)), (1, 28, 28)),
    "VGG-16, a quarter wide": (lambda: networks.vgg16(0.25), (3, 32, 32)),
    "ResNet-50, a quarter wide": (lambda: networks.resnet50(0.25), (3, 64, 64)),
}


def masked(build: Callable[[], nn.Module], biases: bool) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return a network with random weights, and the indices of the dead units of each of its axes."""
    torch.manual_seed(0)
    network = build().eval()
    masks.randomize_norms(network, torch.Generator().manual_seed(0))
    dead = {name: torch.randperm(axis.size)[: axis.size // 2] for name, axis in masks.axes(network).items()}
    masks.apply(network, masks.without_rows(network, dead))
    if biases:
        _without_biases(network, dead)
    return network, dead


@torch.no_grad()
def _without_biases(network: nn.Module, dead: dict[str, torch.Tensor]) -> None:
    """Let dead units give zero: the layer's bias goes, and what the norm behind it adds."""
    axis: Any = None
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            axis = module.axes[0]  # type: ignore[index]
        named = dead.get(axis.name) if axis is not None else None
        if named is None:
            continue
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean[named] = 0  # type: ignore[index]
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and module.bias is not None:
            module.bias[named] = 0


Made = Callable[[nn.Module, dict[str, torch.Tensor], Path, tuple[int, ...]], onnx.ModelProto]


def _onnxsqueeze(network: nn.Module, dead: Any, path: Path, image: tuple[int, ...]) -> onnx.ModelProto:
    found = onnxsqueeze.minimize(path, round_to=1).model
    assert isinstance(found, onnx.ModelProto)
    return found


def _onnxslim(network: nn.Module, dead: Any, path: Path, image: tuple[int, ...]) -> onnx.ModelProto:
    import onnxslim

    found = onnxslim.slim(str(path))
    assert isinstance(found, onnx.ModelProto)
    return found


def _onnxsim(network: nn.Module, dead: Any, path: Path, image: tuple[int, ...]) -> onnx.ModelProto:
    import onnxsim

    found, _ = onnxsim.simplify(onnx.load(path))
    assert isinstance(found, onnx.ModelProto)
    return found


def _onnxsim_pruning(network: nn.Module, dead: Any, path: Path, image: tuple[int, ...]) -> onnx.ModelProto:
    import onnxsim

    found = onnxsim.apply_structured_pruning(_onnxsim(network, dead, path, image), sparsity=0.5)
    assert isinstance(found, onnx.ModelProto)
    return found


def _torch_pruning(
    network: nn.Module, dead: dict[str, torch.Tensor], path: Path, image: tuple[int, ...]
) -> onnx.ModelProto:
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(network, torch.randn(1, *image))
    gone: set[str] = set()
    for module in list(network.modules()):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        name = module.axes[0].name  # type: ignore[index]
        if name in dead and name not in gone:  # the first writer of a stream takes the others with it
            gone.add(name)
            prune = tp.prune_conv_out_channels if isinstance(module, nn.Conv2d) else tp.prune_linear_out_channels
            group = graph.get_pruning_group(module, prune, idxs=dead[name].tolist())
            if graph.check_pruning_group(group):
                group.prune()
    small = path.with_suffix(".pruned.onnx")
    export(network, small, image)
    return onnx.load(small)


TOOLS: dict[str, tuple[str, Made]] = {
    "onnxslim": ("onnxslim", _onnxslim),
    "onnxsim": ("onnxsim", _onnxsim),
    "onnxsim, structured pruning": ("onnxsim", _onnxsim_pruning),
    "Torch-Pruning": ("torch_pruning", _torch_pruning),
    "onnxsqueeze": ("onnxsqueeze", _onnxsqueeze),
}


def elements(model: onnx.ModelProto) -> int:
    """Count what is stored as floating-point weights."""
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)


def outputs(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Run a model with one input and one output."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(found)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield network, mask, tool, and what came out."""
    images = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, (build, image) in NETWORKS.items():
            for biases in (False, True):
                path = Path(folder) / "masked.onnx"
                export(masked(build, biases)[0], path, image)
                original = onnx.load(path)
                given = images.standard_normal((8, *image)).astype(np.float32)
                wanted = outputs(original, given)
                for tool, (package, made) in TOOLS.items():
                    if find_spec(package) is None:
                        continue
                    network, dead = masked(build, biases)
                    yield name, "rows and biases" if biases else "rows", tool, _judged(
                        lambda: made(network, dead, path, image), original, given, wanted  # noqa: B023
                    )


def _judged(
    make: Callable[[], onnx.ModelProto], original: onnx.ModelProto, given: np.ndarray, wanted: np.ndarray
) -> str:
    try:
        found = make()
        off = np.abs(outputs(found, given) - wanted).max() / np.abs(wanted).max()
    except Exception as error:  # what another tool makes of it is the result
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    return f"{elements(found) / elements(original):.1%} left, off by {off:.0e}"


@click.command()
def main() -> None:
    """Print what each tool makes of each network."""
    table = Table("network", "zero", "tool", "result")
    for row in rows():
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
