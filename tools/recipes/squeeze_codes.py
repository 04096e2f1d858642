"""Squeeze a network of codes on MNIST in cycles: quantization-aware pruning, from an int8 file to a smaller int8 file.

Reads NETWORK.onnx as `tools/recipes/train_dense.py` writes it, quantizes it with onnxruntime (static, QDQ, int8,
calibrated on 512 training images), squeezes both by `SqueezeRelease`, and prints for each the accuracy of the last file
in onnxruntime on the test images, which no choice has seen, and its bytes.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnxruntime
import torch
from torch import nn

from onnxsqueeze.deployment.quantization import to_int8
from onnxsqueeze.training import Phase, SqueezeRelease
from tools.recipes.data import Images, mnist
from tools.recipes.fitting import Loop, accuracy
from tools.recipes.train_dense import NETWORKS

_CALIBRATION = 512


def measured(path: Path, images: Images) -> float:
    """Return the share of images that a file labels rightly in onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    hits = [
        session.run(None, {given.name: part.numpy()})[0].argmax(1) == labels.numpy()
        for part, labels in zip(images.inputs.split(500), images.labels.split(500), strict=True)
    ]
    return float(np.concatenate(hits).mean())


def _quantized(path: Path, target: Path, images: Images) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with TemporaryDirectory() as folder:
        made = Path(folder) / "int8.onnx"
        to_int8(path, made, [{name: images.inputs[:_CALIBRATION].numpy()}])
        target.write_bytes(made.read_bytes())


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The folder that holds mnist.npz.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="With the files of train_dense.")
@click.option("--network", type=click.Choice(list(NETWORKS)), default="mlp-300", show_default=True)
@click.option("--ratio", default=10.0, show_default=True)
@click.option("--cycles", default=4, show_default=True)
@click.option("--epochs", default=2.0, show_default=True, help="Of each cycle; three times as many after the last.")
@click.option("--seed", default=0, show_default=True)
def main(data: Path, folder: Path, network: str, ratio: float, cycles: int, epochs: float, seed: int) -> None:
    """Squeeze a float file and its int8 file to the same ratio, with the same training."""
    torch.set_num_threads(1)
    images = mnist(data)
    parts = images.flattened() if NETWORKS[network].flat else images
    files = {"float32": folder / f"{network}.onnx", "int8": folder / f"{network}.int8.onnx"}
    _quantized(files["float32"], files["int8"], parts.training)

    def train(module: nn.Module, phase: Phase) -> None:
        if phase.kind == "squeeze":
            last = phase.cycle == phase.cycles and phase.step == phase.steps
            Loop(epochs * (3 if last else 1), learning_rate=NETWORKS[network].loop.learning_rate).fit(
                module, parts.training, phase.seed
            )

    def evaluate(module: nn.Module) -> float:
        return accuracy(module, parts.validation)

    click.echo("| file | weights | ratio | bytes | accuracy |\n|---|---:|---:|---:|---:|")
    for kind, path in files.items():
        with TemporaryDirectory() as workdir:
            cycle = SqueezeRelease(path, None, train=train, evaluate=evaluate, workdir=workdir, seed=seed)
            best = cycle.run(cycles=cycles, target_ratio=ratio)
            for name, file, left in (
                (f"{network}, {kind}", path, 1.0),
                (f"{kind}, squeezed", best.onnx_path, best.ratio),
            ):
                share = 100 * measured(Path(file), parts.test)
                size = Path(file).stat().st_size
                click.echo(f"| {name} | | {left:.2f}x | {size:,} | {share:.2f} % |")


if __name__ == "__main__":
    main()
