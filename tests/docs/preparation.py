"""What a page takes for granted: files that its commands name, and names that its programs use."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from shutil import copy, copytree
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.docs.blocks import ROOT

Names = dict[str, Any]
_STUB = '#!/bin/sh\nexec "{python}" -m {module} "$@"\n'


def prepared(page: str, folder: Path) -> Names:
    """Fill the folder in which the blocks of a page run, and return the names that its programs begin with."""
    copytree(ROOT / "models", folder / "models")
    for name, source in (("model", "mlp"), ("net", "mlp"), ("dense", "dense")):
        copy(ROOT / f"models/{source}.onnx", folder / f"{name}.onnx")
    _samples(folder)
    return PAGES[page](folder) if page in PAGES else {}


def tools(folder: Path) -> Path:
    """Return a folder of commands: onnxsqueeze as it stands here, and pip and npm, which only look at what is asked."""
    folder.mkdir()
    for name in ("onnxsqueeze", "pip", "npm"):
        module = "onnxsqueeze" if name == "onnxsqueeze" else "tests.docs.installing"
        path = folder / name
        path.write_text(_STUB.format(python=sys.executable, module=module), encoding="utf-8")
        path.chmod(0o755)
    return folder


def _samples(folder: Path) -> None:
    random = np.random.default_rng(0)
    images, labels = random.random((600, 1, 28, 28), dtype=np.float32), random.integers(0, 10, 600)
    np.savez(folder / "samples.npz", image=images)
    np.savez(folder / "train.npz", image=images[:100])
    (folder / "folder_of_npy").mkdir()
    np.save(folder / "folder_of_npy/image.npy", images)
    np.save(folder / "folder_of_npy/labels.npy", labels)


def _classifier(folder: Path) -> Names:
    """A small trained module, its data, and the two functions that a training cycle wants."""
    import torch

    torch.manual_seed(0)
    images = torch.randn(256, 12)
    labels = (images[:, :4].argmax(1)).long()
    model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    loader = [(images[start : start + 64], labels[start : start + 64]) for start in range(0, 256, 64)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the older exporter, which is quicker
        torch.onnx.export(model, (images[:8],), folder / "network.onnx", input_names=["x"], dynamo=False)
    loaders = {"train_loader": loader, "validation_loader": loader}
    return {"model": model, "images": images, "labels": labels, "example_images": images[:8], **loaders}


def _loops(folder: Path) -> Names:
    import torch

    names = _classifier(folder)

    def train(module: Any, phase: Any) -> None:
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for images, labels in names["train_loader"]:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(images), labels).backward()
            optimizer.step()

    def evaluate(module: Any) -> float:
        with torch.no_grad():
            return float((module(names["images"]).argmax(1) == names["labels"]).float().mean())

    given = {"model_or_onnx_path": folder / "network.onnx", "example_inputs": names["example_images"]}
    return {**names, **given, "my_train": train, "my_evaluate": evaluate}


def _readme(folder: Path) -> Names:
    """Networks of a layer or two, the second half of their hidden units masked."""
    import onnx

    from onnxsqueeze import minimize
    from tests.support.perceptrons import perceptron

    random = np.random.default_rng(0)
    first, second = random.normal(size=(12, 64)).astype("f4"), random.normal(size=(64, 4)).astype("f4")
    onnx.save(perceptron(first, second), folder / "model.onnx")
    inputs = random.normal(size=(300, 12)).astype("f4")
    np.save(folder / "folder_of_npy/x.npy", inputs)
    np.save(folder / "folder_of_npy/labels.npy", (np.maximum(inputs @ first + 1, 0) @ second).argmax(1))
    (folder / "folder_of_npy/image.npy").unlink()
    second[32:] = 0
    masked = perceptron(first, second)
    onnx.save(masked, folder / "net.onnx")
    onnx.save(minimize(masked, verify=False).model, folder / "net.min.onnx")
    return {**_loops(folder), "model": perceptron(first, second, hidden="backbone.0")}


def _digits(folder: Path) -> Names:
    with np.load(folder / "samples.npz") as samples:
        images = samples["image"]
    return {"images": images[:50], "labels": np.arange(50) % 10}


def _codes(folder: Path) -> Names:
    from onnxruntime.quantization import QuantType, quantize_static

    with np.load(folder / "samples.npz") as samples:
        each = iter([{"image": image[None]} for image in samples["image"][:4]])
    reader = SimpleNamespace(get_next=lambda: next(each, None))
    quantize_static(folder / "model.onnx", folder / "model_int8.onnx", reader, weight_type=QuantType.QInt8)
    return {}


PAGES: dict[str, Callable[[Path], Names]] = {
    "README.md": _readme,
    "docs/training.md": _classifier,
    "docs/deploy/README.md": _digits,
    "docs/quantized.md": _codes,
}
"""What stands behind the words "your own model", for pages that need more than files of networks and samples."""
