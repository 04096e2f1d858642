"""What is given for a model by mistake is named as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnxsqueeze.errors import InvalidModelError
from onnxsqueeze.model.loading import load
from tests.support.perceptrons import perceptron, weights

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
FILES = {
    "net.pbtxt": (lambda: str(perceptron(*weights())).encode(), "an ONNX model written as text"),
    "net.tflite": (lambda: b"\x1c\x00\x00\x00TFL3" + bytes(100), "a TFLite model"),
    "net.safetensors": (lambda: len(HEADER).to_bytes(8, "little") + HEADER + bytes(4), "a safetensors file"),
    "page.onnx": (lambda: b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page"),
    "net.onnx": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 132\n",
        "a Git LFS pointer",
    ),
    "old.pt": (lambda: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch checkpoint"),
    "net.h5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
    "net.gguf": (lambda: b"GGUF" + bytes(50), "a GGUF file"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_kinds(tmp_path: Path, name: str) -> None:
    make, what = FILES[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(InvalidModelError, match=f"{name}: is {what}"):
        load(path)
    with pytest.raises(InvalidModelError, match=f"what was given is {what}"):
        load(make())


def test_files_that_other_packages_write(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "net.onnx")
    with pytest.raises(InvalidModelError, match="is a PyTorch checkpoint; export the network with torch.onnx.export"):
        load(tmp_path / "net.onnx")
    np.savez(tmp_path / "samples.npz", x=np.ones(3))
    with pytest.raises(InvalidModelError, match="is an npz file"):
        load(tmp_path / "samples.npz")


def test_models_are_not_mistaken(tmp_path: Path) -> None:
    onnx.save(perceptron(*weights()), tmp_path / "net.pt")
    assert load(tmp_path / "net.pt").initializers
