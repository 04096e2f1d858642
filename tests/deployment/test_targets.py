"""Each target, where its runtime is installed: what is written runs there and is the same function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxsqueeze.deployment.targets import TARGETS
from tests.deployment.networks import Array, classifier, needs, network, sampled, saved
from tests.support.perceptrons import run

_FILES = {
    "openvino": ["model.bin", "model.xml"],
    "ncnn": ["model.ncnn.bin", "model.ncnn.json", "model.ncnn.param"],
    "litert": ["model.tflite", "model.tflite.json"],
    "web": ["model.onnx"],
}
_RUNS_IN = {"openvino": ["OpenVINO"], "ncnn": ["ncnn"], "litert": ["LiteRT"], "web": ["onnxruntime", "onnxruntime-web"]}


def deployed(tmp_path: Path, target: str, *arguments: object) -> dict[str, Any]:
    needs(TARGETS[target].runtimes[-1])
    folder = tmp_path / "_".join(["made", *map(str, arguments[:1])])
    result = run("deploy", tmp_path / "net.onnx", "--target", target, "-o", folder, "--quiet", *arguments)
    assert result.exit_code == 0, result.output
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def size(manifest: dict[str, Any]) -> int:
    return max(entry["bytes"] for entry in manifest["files"] if not entry["path"].endswith(".xml"))


@pytest.mark.parametrize("target", list(_FILES))
def test_the_same_function(tmp_path: Path, target: str) -> None:
    saved(classifier(), tmp_path / "net.onnx")
    manifest = deployed(tmp_path, target)
    assert [entry["path"] for entry in manifest["files"]] == _FILES[target]
    assert manifest["exact"]
    assert [entry["runtime"].split()[0] for entry in manifest["deviations"]] == _RUNS_IN[target]
    assert all(entry["relative"] < 5e-6 for entry in manifest["deviations"])


@pytest.mark.parametrize("target", list(_FILES))
def test_float16_is_half_as_large(tmp_path: Path, target: str) -> None:
    saved(wide(), tmp_path / "net.onnx")
    manifest = deployed(tmp_path, target, "--fp16")
    assert 100_000 <= size(manifest) < 150_000  # of 50,000 weights
    assert not manifest["exact"]
    assert all(1e-6 < entry["relative"] < 5e-3 for entry in manifest["deviations"])


def wide() -> Any:
    """Return a network whose weights make up its file."""
    random = np.random.default_rng(0)
    weights: dict[str, Array] = {
        "first": random.normal(size=(100, 250)).astype(np.float32),
        "second": random.normal(size=(250, 100)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["y"]),
    ]
    return network(nodes, {"x": ["batch", 100]}, {"y": ["batch", 100]}, weights)


@pytest.mark.parametrize("target", ["openvino", "web"])
def test_int8_where_it_is_taken(tmp_path: Path, target: str) -> None:
    saved(wide(), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(64, 100)).astype(np.float32))
    manifest = deployed(tmp_path, target, "--int8", "--calibrate", tmp_path / "x.npz")
    assert 50_000 <= size(manifest) < 75_000  # of 50,000 weights
    assert not manifest["exact"]
    assert all(1e-3 < entry["relative"] < 0.1 for entry in manifest["deviations"])


@pytest.mark.parametrize("target", ["ncnn", "litert"])
def test_one_size_of_each_dimension(tmp_path: Path, target: str) -> None:
    saved(classifier(size="dynamic"), tmp_path / "net.onnx")
    samples = sampled(tmp_path / "x.npz", count=3, labels=np.arange(3))
    sizes = ("--dim", "height=12", "--dim", "width=12")
    manifest = deployed(tmp_path, target, "--inputs", samples, *sizes)
    assert manifest["options"]["sizes"] == {"height": 12, "width": 12, "batch": 1}
    assert manifest["deviations"][0]["runs"] == manifest["accuracy"]["labels"] == 3


@pytest.mark.parametrize("target", list(_FILES))
def test_outputs_with_space_come_in_their_own_layout(tmp_path: Path, target: str) -> None:
    """All sides of the output are equal: only the values can tell which axis is which."""
    random = np.random.default_rng(0)
    weights: dict[str, Array] = {
        "first": random.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "second": random.normal(size=(8, 6, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["hidden"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("Conv", ["positive", "second"], ["map"]),
    ]
    shape = ["batch", 3, 8, 8]
    saved(network(nodes, {"image": shape}, {"map": ["batch", 8, 8, 8]}, weights), tmp_path / "net.onnx")
    assert all(entry["relative"] < 5e-6 for entry in deployed(tmp_path, target)["deviations"])
