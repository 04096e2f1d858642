"""The recipes run from end to end on a few made-up images, stop and go on."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tools.recipes import compare_pruners, data
from tools.recipes.data import cifar10, mnist
from tools.recipes.fitting import Loop, accuracy, flip_and_shift
from tools.recipes.linear_blocks import mlps, replaced
from tools.recipes.networks import ConvNeXt, VisionTransformer, fully_connected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two data sets in which the label is where an image is bright."""
    monkeypatch.setattr(data, "VALIDATION", 64)
    random = np.random.default_rng(0)
    labels = {part: random.integers(0, 10, count) for part, count in (("train", 576), ("test", 100))}
    grey = {f"x_{part}": _bright(found, 28) for part, found in labels.items()}
    np.savez(tmp_path / "mnist.npz", **grey, **{f"y_{part}": found for part, found in labels.items()})
    files = {part: [_jpeg(image) for image in _bright(found, 32)] for part, found in labels.items()}
    jpeg = {f"jpeg_{part}": np.frombuffer(b"".join(found), np.uint8) for part, found in files.items()}
    offsets = {f"offset_{part}": np.cumsum([0, *map(len, found)]) for part, found in files.items()}
    np.savez(tmp_path / "cifar10_jpeg.npz", **jpeg, **offsets, **{f"y_{part}": found for part, found in labels.items()})
    return tmp_path


def _bright(labels: np.ndarray, side: int) -> np.ndarray:
    images = np.random.default_rng(1).integers(0, 40, (len(labels), side, side)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 3] = 250
    return images


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.stack([image] * 3, -1)).save(file, "JPEG", quality=75)
    return file.getvalue()


def _run(command: object, *arguments: str) -> Result:
    found = CliRunner().invoke(command, arguments, catch_exceptions=False)  # type: ignore[arg-type]
    assert found.exit_code == 0, found.output
    return found


def _rows(result: Result) -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith("|")]


def test_the_parts_of_the_data_are_apart_and_normed(folder: Path) -> None:
    for found, channels, side in ((mnist(folder), 1, 28), (cifar10(folder), 3, 32)):
        assert [len(part) for part in (found.training, found.validation, found.test)] == [512, 64, 100]
        assert found.training.inputs.shape[1:] == (channels, side, side)
        assert abs(float(found.training.inputs.mean())) < 1e-4 and abs(float(found.training.inputs.std()) - 1) < 1e-3
    assert mnist(folder).training.labels.equal(cifar10(folder).training.labels)


def test_missing_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"mnist\.npz: not found; give the folder"):
        mnist(tmp_path)


def test_a_training_that_was_stopped_ends_where_an_undisturbed_one_does(folder: Path, tmp_path: Path) -> None:
    images = mnist(folder).flattened().training
    loop = Loop(4, batch=64)

    def network() -> torch.nn.Module:
        torch.manual_seed(3)
        return fully_connected((784, 8, 10))

    whole, stopped = network(), network()
    loop.fit(whole, images, seed=1)
    file = tmp_path / "training.pt"
    _stop_after(loop, stopped, images, file, steps=10)
    resumed = network()
    loop.fit(resumed, images, seed=1, checkpoint=file)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert one.equal(other)
    assert accuracy(whole, images) > 0.3  # chance is 0.1


def _stop_after(loop: Loop, module: torch.nn.Module, images: data.Images, file: Path, steps: int) -> None:
    from tools.recipes import fitting

    state = fitting._State(loop, module, images, 1)
    module.train()
    for _ in range(steps):
        state.step()
    torch.save(state.saved(), file)


def test_shifted_images_keep_their_size_and_their_pixels() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    found = flip_and_shift(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    for image, original in zip(found, images, strict=True):
        assert set(image.unique().tolist()) <= set(original.unique().tolist())


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (fully_connected((12, 6, 10)), torch.randn(2, 12)),
        (ConvNeXt((8, 16), (1, 2), stem=1), torch.randn(2, 3, 8, 8)),
        (ConvNeXt((8, 16), (1, 1), stem=2, drop_path=0.5), torch.randn(2, 3, 8, 8)),
        (VisionTransformer(channels=1, image=8, patch=4, width=12, depth=1, heads=3), torch.randn(2, 1, 8, 8)),
    ],
)
def test_networks_give_a_score_for_each_class(network: torch.nn.Module, inputs: torch.Tensor) -> None:
    assert network(inputs).shape == (2, 10)


def test_mnist(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.recipes import reproduce_mnist_mlp as recipe

    few = replace(recipe._NETWORKS["mlp-300-100"], goals=((1, 2.0), (3, 4.0)))
    monkeypatch.setitem(recipe._NETWORKS, "mlp-300-100", few)
    data, runs = ["--data", str(folder)], ["--folder", str(tmp_path / "runs")]
    arguments = [*data, *runs, "--network", "mlp-300-100", "--scale", "0.03"]
    first = _run(recipe.main, *arguments)
    assert "| mlp-300-100 | 0 | 3 |" in first.output
    assert _rows(_run(recipe.main, *arguments)) == _rows(first)  # nothing is trained again


def test_convnext(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.recipes import reproduce_convnext as recipe

    monkeypatch.setitem(recipe._SIZES, "small", {"widths": (8, 16), "depths": (1, 1)})
    monkeypatch.setitem(recipe._RATIOS, "small", (1.5, 2.0))
    arguments = ["--data", str(folder), "--folder", str(tmp_path / "runs"), "--epochs", "0.3"]
    assert "| convnext-small | 0 | 2 |" in _run(recipe.main, *arguments).output


def test_vit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.recipes import reproduce_vit as recipe

    small = VisionTransformer(channels=1, image=28, patch=7, width=24, depth=1, heads=3)
    monkeypatch.setattr(recipe, "VisionTransformer", lambda **_: copy.deepcopy(small))
    monkeypatch.setattr(recipe, "_RATIOS", (1.5, 2.0))
    arguments = ["--data", str(folder), "--folder", str(tmp_path / "runs"), "--epochs", "0.5"]
    assert "| vit | 0 | 2 |" in _run(recipe.main, *arguments).output


@torch.no_grad()
def test_an_mlp_is_replaced_and_nothing_else_is() -> None:
    torch.manual_seed(0)
    module = VisionTransformer(channels=1, image=8, patch=4, width=12, depth=3, heads=3).eval()
    images, first = torch.randn(2, 1, 8, 8), mlps(module)[0]
    expand, project = first.expand.weight, first.project.weight
    whole = module(images)
    with replaced(
        first, lambda x: torch.nn.functional.gelu(x @ expand.T + first.expand.bias) @ project.T + first.project.bias
    ):
        assert torch.allclose(module(images), whole, atol=1e-5)
    with replaced(first, torch.zeros_like):
        assert not torch.allclose(module(images), whole, atol=1e-3)
    assert module(images).equal(whole)


def test_a_dense_network_is_squeezed_in_all_ways(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.recipes import squeeze_dense, squeezed, train_dense

    network = train_dense._Network(lambda: fully_connected((784, 24, 16, 10)), Loop(4, batch=64), flat=True)
    monkeypatch.setitem(train_dense.NETWORKS, "mlp-300", network)
    nets, found = ["--folder", str(tmp_path / "nets"), "--network", "mlp-300"], tmp_path / "found.jsonl"
    _run(train_dense.main, "--data", str(folder), *nets)
    ways = [word for way in squeeze_dense.REPAIRS for word in ("--repair", way)]
    _run(squeeze_dense.main, *nets, "--ratio", "2", "--ratio", "4", *ways, "--records", str(found))
    records = squeezed.noted([found])
    assert {(each.way, each.goal) for each in records} == {
        (f"{way}, ratio", goal) for way in squeeze_dense.REPAIRS for goal in (2.0, 4.0)
    }
    assert all(each.ratio >= each.goal for each in records)
    rows = _rows(_run(squeezed.main, str(found)))
    assert [row.split(" | ")[2] for row in rows[2:]] == ["2x", "4x"]


def _narrow(
    module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, importance: str, everywhere: bool, share: float
) -> torch.nn.Module:
    """Keep the first hidden units, in place of a package that is not there."""
    *front, first, relu, last = copy.deepcopy(module)
    kept = max(1, round(first.out_features * (1 - share)))
    layers = torch.nn.Linear(first.in_features, kept), relu, torch.nn.Linear(kept, last.out_features)
    with torch.no_grad():
        layers[0].weight.copy_(first.weight[:kept])
        layers[2].weight.copy_(last.weight[:, :kept])
    return torch.nn.Sequential(*front, *layers)


def test_pruners_are_compared_at_the_same_sizes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = compare_pruners.Network(
        lambda: fully_connected((784, 12, 10)), True, Loop(2), ((1, 2.0), (2, 4.0)), (1, 2), hidden=0.1
    )
    monkeypatch.setitem(compare_pruners.NETWORKS, "mlp-300-100", network)
    monkeypatch.setattr(compare_pruners, "PEERS", ("magnitude",))
    monkeypatch.setattr(compare_pruners, "torch_pruned", _narrow)
    options = ["--data", str(folder), "--folder", str(tmp_path / "runs"), "--network", "mlp-300-100", "--seeds", "1"]
    found = _run(compare_pruners.main, *options)
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:3] for row in _rows(found)[2:]}
    assert list(rows) == [
        "mlp-300-100, units",
        "mlp-300-100, units, all inputs",
        "mlp-300-100, Torch-Pruning, magnitude",
        "mlp-300-100, Torch-Pruning, magnitude, our pixels",
    ]
    sizes = [[int(cell.split(", ")[0].replace(",", "")) for cell in cells] for cells in rows.values()]
    assert all(peer[cycle] <= sizes[0][cycle] for peer in sizes[2:] for cycle in (0, 1))
    ours = tmp_path / "runs" / "mlp-300-100, units" / "seed-0" / "cycles" / "cycle-02" / "minimized.onnx"
    pixels = compare_pruners.pixels_of(ours)
    assert 1 < len(pixels) < 784
    whole = tmp_path / "runs" / "mlp-300-100, units, all inputs" / "seed-0" / "cycles" / "cycle-02" / "minimized.onnx"
    assert len(compare_pruners.pixels_of(whole)) == 784
    assert _rows(_run(compare_pruners.main, *options)) == _rows(found)  # all of it is kept
