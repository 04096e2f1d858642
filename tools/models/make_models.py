"""Train, prune and export the four networks of models/, and measure what minimizing them changes.

    python tools/models/make_models.py                # writes models/*.onnx; a few minutes on two cores
    python tools/models/make_models.py --measure      # prints the table of models/README.md, writes nothing

The training set is split into 55,000 digits to learn from and 5,000 that decide which epoch is kept. The 10,000 test
digits are used by ``--measure`` alone.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from rich.console import Console
from torch import Tensor, nn

from tools.models import masks, networks
from tools.models.exporting import export
from tools.models.masks import Masks

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data/mnist.npz"
VALIDATION = 5000
BATCH = 128


@dataclass(frozen=True)
class Digits:
    """Images, float32[n, 1, 28, 28] between 0 and 1, and labels, int64[n]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How one model comes about.

    Attributes:
        description: for models/README.md.
        build: makes the untrained network.
        prune: chooses the masks of the trained network, or None where nothing is pruned.
        epochs: of training before the masks; half as many follow with the masks held.
        opset: of the exported model.
        dynamo: which of torch's exporters writes it.
    """

    description: str
    build: Callable[[], nn.Module]
    prune: Callable[[nn.Module], Masks] | None
    epochs: int
    opset: int
    dynamo: bool


def residual_digits() -> nn.Sequential:
    """Two basic and four bottleneck blocks in three stages."""
    stem = networks.Axis("stem", 32)
    stages = [
        networks.Stage(networks.basic, 32, 32, 1, stride=1),
        networks.Stage(networks.basic, 64, 48, 1),
        networks.Stage(networks.bottleneck, 128, 32, 4),
    ]
    return networks.resnet(networks.conv_norm(networks.GRAY, stem, 3, stride=2), stem, stages, 10)


def prune_mlp(network: nn.Module) -> Masks:
    """Whole units lose their inputs, others their outputs; of what is left the smallest weights go."""
    rows = {name: masks.weakest_units(network, name, share) for name, share in (("hidden0", 0.4), ("hidden1", 0.3))}
    columns = {"hidden0": masks.weakest_units(network, "hidden0", 0.55)[-45:]}
    structured = masks.merged(masks.without_rows(network, rows), masks.without_columns(network, columns))
    return masks.merged(structured, masks.smallest(network, 0.7, structured))


def prune_vgg(network: nn.Module) -> Masks:
    """Two of five filters go in every layer, their BatchNorm shifts stay; then the smallest weights."""
    rows = {name: masks.weakest_units(network, name, 0.4) for name in masks.axes(network)}
    structured = masks.without_rows(network, rows)
    return masks.merged(structured, masks.smallest(network, 0.6, structured))


def prune_resnet(network: nn.Module) -> Masks:
    """A quarter of each stream and two fifths inside each block go, and one residual branch as a whole."""
    share = {name: 0.4 if "block" in name else 0.25 for name in masks.axes(network)}
    rows = {name: masks.weakest_units(network, name, fraction) for name, fraction in share.items()}
    branch = {"4.body.2.0.weight": torch.zeros_like(network.get_parameter("4.body.2.0.weight"))}
    structured = masks.merged(masks.without_rows(network, rows), branch)
    return masks.merged(structured, masks.smallest(network, 0.5, structured))


RECIPES = {
    "mlp": Recipe(
        "784-300-100-10; 40 % and 30 % of the units without inputs but with biases, 15 % of the first layer without "
        "readers, 70 % of the remaining weights by magnitude",
        lambda: networks.mlp((300, 100)),
        prune_mlp,
        epochs=8,
        opset=18,
        dynamo=True,
    ),
    "vgg": Recipe(
        "six zero-padded 3x3 convolutions with BatchNorm (folded by the exporter), three pools, two Gemms; 40 % of the "
        "filters of every layer without weights but with BatchNorm shifts, 60 % of the remaining weights by magnitude",
        lambda: networks.vgg((16, 16, "pool", 32, 32, "pool", 64, 64, "pool"), networks.GRAY, 96, positions=9),
        prune_vgg,
        epochs=2,
        opset=17,
        dynamo=False,
    ),
    "resnet": Recipe(
        "two basic and four bottleneck blocks with BatchNorm (kept by the exporter); 25 % of each residual stream "
        "without weights in every writer, 40 % of the channels inside the blocks, one dead residual branch, 50 % of "
        "the remaining weights by magnitude",
        residual_digits,
        prune_resnet,
        epochs=2,
        opset=18,
        dynamo=True,
    ),
    "dense": Recipe(
        "two convolutions, two Gemms, no mask: nothing can go",
        lambda: networks.lenet((8, 16, 64)),
        None,
        epochs=4,
        opset=17,
        dynamo=False,
    ),
}


def load_digits(path: Path, part: str) -> Digits:
    """Read the ``train`` or ``test`` part of mnist.npz."""
    with np.load(path) as file:
        images = torch.from_numpy(file[f"x_{part}"]).float().div(255).unsqueeze(1)
        return Digits(images, torch.from_numpy(file[f"y_{part}"]).long())


@torch.inference_mode()
def right_answers(network: nn.Module, digits: Digits) -> float:
    """Share of digits that the network gets right, in evaluation mode."""
    network.eval()
    right = [network(images).argmax(1) for images in digits.images.split(1000)]
    return (torch.cat(right) == digits.labels).float().mean().item()


def train(network: nn.Module, digits: Digits, epochs: int, held: Masks, rate: float) -> float:
    """Train with AdamW on all but the last digits, and keep the epoch that is best on those.

    Args:
        network: changed in place; masked weights are zero after every step.
        digits: the training set.
        epochs: passes over it.
        held: masks to hold.
        rate: the highest learning rate.

    Returns:
        The accuracy of the kept epoch on the validation digits.
    """
    learn = Digits(digits.images[:-VALIDATION], digits.labels[:-VALIDATION])
    check = Digits(digits.images[-VALIDATION:], digits.labels[-VALIDATION:])
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    steps = len(learn.labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    best, kept = -1.0, copy.deepcopy(network.state_dict())
    for _ in range(epochs):
        network.train()
        for chosen in torch.randperm(len(learn.labels))[: steps * BATCH].split(BATCH):
            loss = nn.functional.cross_entropy(network(learn.images[chosen]), learn.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            masks.apply(network, held)
        accuracy = right_answers(network, check)
        if accuracy > best:
            best, kept = accuracy, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return best


def make(name: str, recipe: Recipe, digits: Digits, output: Path, console: Console) -> None:
    """Train, prune, fine-tune and export one model."""
    network = recipe.build()
    dense = train(network, digits, recipe.epochs, {}, rate=3e-3)
    console.print(f"{name}: trained, {dense:.2%} of the validation digits right")
    if recipe.prune:
        held = recipe.prune(network)
        masks.apply(network, held)
        pruned = train(network, digits, max(1, recipe.epochs // 2), held, rate=1e-3)
        console.print(f"{name}: pruned and fine-tuned, {pruned:.2%}")
    export(network, output / f"{name}.onnx", (1, 28, 28), recipe.opset, recipe.dynamo, fold_norms=True)


def test_accuracy(path: Path, digits: Digits) -> float:
    """Percentage of test digits that a model file gets right in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = digits.images.numpy()
    right = [session.run(None, {"image": images[start : start + 1000]})[0].argmax(1) for start in range(0, 10000, 1000)]
    return 100 * float((np.concatenate(right) == digits.labels.numpy()).mean())


def measured_table(folder: Path, digits: Digits) -> str:
    """Minimize each model, count its weights and errors before and after, and render the table as markdown."""
    import onnxsqueeze

    lines = [
        "| file | what it is | weights before | after | bytes before | after | accuracy before | after |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, recipe in RECIPES.items():
        source = folder / f"{name}.onnx"
        result = onnxsqueeze.minimize(source)
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch, source.name)
            onnx.save(result.model, target)
            before, after = test_accuracy(source, digits), test_accuracy(target, digits)
            sizes = f"{source.stat().st_size:,} | {target.stat().st_size:,}"
        totals = result.report
        lines.append(
            f"| {source.name} | {recipe.description} | {totals.weights_before:,} | {totals.weights_after:,} "
            f"| {sizes} | {before:.2f} % | {after:.2f} % |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=DATA, help="Path of mnist.npz.")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "models", help="Folder of the .onnx files.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(RECIPES)), help="Make only these.")
@click.option("--measure", is_flag=True, help="Minimize the models and print the table of models/README.md instead.")
def main(data: Path, output: Path, seed: int, only: tuple[str, ...], measure: bool) -> None:
    """Make the models, or measure them."""
    console = Console()
    if not data.is_file():
        raise click.ClickException(f"{data} is missing: pass the path of mnist.npz with --data")
    if measure:
        print(measured_table(output, load_digits(data, "test")))
        return
    digits = load_digits(data, "train")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    output.mkdir(parents=True, exist_ok=True)
    for name in only or RECIPES:
        torch.manual_seed(seed)
        make(name, RECIPES[name], digits, output, console)


if __name__ == "__main__":
    main()
