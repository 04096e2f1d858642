"""Let onnxsim and Torch-Pruning make the same networks small from the same samples, once and without training.

    pip install . onnxscript onnxsim torch-pruning torch==2.13.0      # in an environment of its own
    python tools/recipes/squeeze_peers.py --folder NETS --network lenet --ratio 20 --records peers.jsonl

onnxsim: its structured pruning by weights and activations, then its repair by ridge regression, on the file.
Torch-Pruning: one step by weight magnitude and by first-order Taylor (labels of the samples), in each layer alike and
over the whole network, on the module; of the two the one that is better on a third of the samples, which nothing
else looks at, is judged. The share that goes is the smallest that leaves no more weights than were asked for. Neither
drops columns of the input. Figures are of the ONNX files on the test images in onnxruntime.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load
from tools.models.exporting import export
from tools.recipes.squeezed import Record, accuracy, note, test_images
from tools.recipes.torch_pruning import smallest_share, torch_pruned
from tools.recipes.train_dense import NETWORKS

_BATCH = 256
_HALVINGS = 12
_MOST = 0.96  # beyond, layers of few channels are left out


@dataclass(frozen=True)
class Given:
    """What each tool gets.

    Attributes:
        network: its name. folder: with the file and the module's weights. images, labels: of two thirds of the samples.
        checked, right: of the others.
    """

    network: str
    folder: Path
    images: Tensor
    labels: Tensor
    checked: Tensor
    right: Tensor

    @property
    def path(self) -> Path:
        """Where the dense file is."""
        return self.folder / f"{self.network}.onnx"

    def module(self) -> nn.Module:
        """Return the dense module."""
        module = NETWORKS[self.network].build()
        module.load_state_dict(torch.load(self.folder / f"{self.network}.pt", weights_only=True))
        return module.eval()


def given(folder: Path, network: str, samples: int) -> Given:
    """Read a network of `tools/recipes/train_dense.py`, and at most so many samples to choose by."""
    with np.load(folder / f"{network}.npz") as file:
        images, labels = torch.from_numpy(file["image"]), torch.from_numpy(file["labels"])
    third = len(images) // 3
    chosen = slice(third, third + samples)
    return Given(network, folder, images[chosen], labels[chosen], images[:third], labels[:third])


def onnxsim_repaired(own: Given, share: float) -> onnx.ModelProto:
    """Return what onnxsim leaves when a share of the channels goes, repaired."""
    import onnxsim

    batches = [{"image": batch.numpy()} for batch in own.images.split(_BATCH)]
    dense = onnx.load(own.path)
    small = onnxsim.apply_structured_wanda_pruning(dense, calibration_data=batches, sparsity=share)
    return onnxsim.apply_pruning_finetune(dense, small, calibration_data=batches)


def torch_pruned_file(own: Given, share: float, importance: str, everywhere: bool, path: Path) -> nn.Module:
    """Prune a share of the channels of a module, and return it; the file is written as well."""
    module = torch_pruned(own.module(), own.images, own.labels, importance, everywhere, share)
    network = NETWORKS[own.network]
    export(module, path, tuple(own.images.shape[1:]), opset=18 if network.dynamo else 17, dynamo=network.dynamo)
    return module.eval()


def _by_onnxsim(own: Given, elements: float, path: Path) -> Path | None:
    def made(share: float) -> int:
        onnx.save(onnxsim_repaired(own, share), path)
        return weight_elements(load(path))

    share = smallest_share(made, elements, _MOST, _HALVINGS)
    if share is None:
        return None
    made(share)
    return path


def _by_torch_pruning(own: Given, elements: float, path: Path, importance: str) -> Path | None:
    best: tuple[float, bytes] | None = None
    for everywhere in (False, True):

        def made(share: float, everywhere: bool = everywhere) -> int:
            torch_pruned_file(own, share, importance, everywhere, path)
            return weight_elements(load(path))

        share = smallest_share(made, elements, _MOST, _HALVINGS)
        if share is None:
            continue
        module = torch_pruned_file(own, share, importance, everywhere, path)
        with torch.no_grad():
            right = float((module(own.checked).argmax(1) == own.right).float().mean())
        if best is None or right > best[0]:
            best = right, path.read_bytes()
    if best is not None:
        path.write_bytes(best[1])
    return path if best is not None else None


TOOLS: dict[str, tuple[str, Callable[[Given, float, Path], Path | None]]] = {
    "onnxsim, repaired": ("onnxsim", _by_onnxsim),
    "Torch-Pruning, magnitude": ("torch_pruning", partial(_by_torch_pruning, importance="magnitude")),
    "Torch-Pruning, Taylor": ("torch_pruning", partial(_by_torch_pruning, importance="Taylor")),
}


def _records(own: Given, ratios: tuple[float, ...], seed: int) -> Iterator[Record]:
    test = test_images(own.folder, own.network)
    dense, whole = accuracy(own.path, test), weight_elements(load(own.path))
    for ratio in ratios:
        for way, (package, squeeze) in TOOLS.items():
            if find_spec(package) is None:
                continue
            started = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                small = squeeze(own, whole / ratio, Path(folder) / "small.onnx")
                if small is None:
                    click.echo(f"  {way}: {ratio:g}x cannot be reached")
                    continue
                found, left = accuracy(small, test), weight_elements(load(small))
            seconds = time.process_time() - started
            yield Record(own.network, seed, ratio, way, whole / left, 0.0, dense, found, seconds)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True), required=True, help="Of train_dense.py.")
@click.option("--network", required=True, type=click.Choice(list(NETWORKS)))
@click.option("--ratio", "ratios", type=float, multiple=True, required=True, help="How many times fewer weights.")
@click.option("--samples", default=8192, show_default=True, help="Samples to choose by, at most.")
@click.option("--seed", default=0, show_default=True)
@click.option("--records", type=click.Path(path_type=Path), help="A file to add to.")
def main(folder: Path, network: str, ratios: tuple[float, ...], samples: int, seed: int, records: Path | None) -> None:
    """Squeeze a network to each of the sizes with each tool that is installed."""
    torch.manual_seed(seed)
    for record in _records(given(folder, network, samples), ratios, seed):
        note(records, record)
        click.echo(f"  {record.network} {record.ratio:.2f}x, {record.way}: {record.accuracy:.2f} %")


if __name__ == "__main__":
    main()
