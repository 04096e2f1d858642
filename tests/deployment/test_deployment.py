"""What a deployment consists of, in onnxruntime, which is always there: files, manifest, deviation, accuracy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import onnxsqueeze
import onnxsqueeze as sq
from onnxsqueeze.deployment.quantization import to_int8
from tests.deployment.networks import CLASSES, classifier, network, sampled, saved
from tests.support.perceptrons import run


@pytest.fixture(autouse=True)
def without_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the target web be run in onnxruntime alone, which is quicker."""
    monkeypatch.setenv("ONNXSQUEEZE_WEB", "nowhere")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a network with a dynamic batch."""
    return saved(classifier(), tmp_path / "net.onnx")


def deployed(*arguments: object) -> dict[str, Any]:
    """Deploy to the folder `made` beside the model, and return the manifest."""
    source = Path(str(arguments[0]))
    result = run("deploy", *arguments, "-o", source.parent / "made", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.output == ""
    manifest: dict[str, Any] = json.loads((source.parent / "made" / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def digest(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"path": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_manifest_lists_what_is_there(model: Path) -> None:
    before = digest(model)
    manifest = deployed(model, "--target", "ort")
    folder = model.parent / "made"
    assert manifest["source"] == [before] == [digest(model)]
    assert manifest["files"] == [digest(folder / "model.onnx"), digest(folder / "model.ort")]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx", "model.ort"]
    assert sorted(path.name for path in model.parent.iterdir()) == ["made", "net.onnx"]
    versions = manifest["versions"]
    assert versions["onnxsqueeze"] == onnxsqueeze.__version__
    assert versions["onnx"] == onnx.__version__
    assert versions["onnxruntime"] == versions["ort"] == onnxruntime.__version__
    assert (manifest["target"], manifest["precision"], manifest["exact"]) == ("ort", "unchanged", True)
    assert [entry["file"] for entry in manifest["deviations"]] == ["model.onnx", "model.ort"]
    for entry in manifest["deviations"]:
        assert entry["runtime"].endswith(onnxruntime.__version__)
        assert (entry["inputs"], entry["runs"]) == ("random inputs", 4)
        assert entry["relative"] == entry["outputs"]["scores"] < 2e-6


def test_the_report_is_the_manifest(model: Path) -> None:
    folder = model.parent / "made"
    result = run("deploy", model, "--target", "web", "-o", folder, "--json", "-")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == {
        "version": onnxsqueeze.__version__,
        "input": str(model),
        "output": str(folder),
        **manifest,
    }


def test_the_table(model: Path) -> None:
    samples = sampled(model.parent / "test.npz", labels=np.zeros(40, np.int64))
    options = ("--target", "web", "--fp16", "--inputs", samples)
    lines = run("deploy", model, *options, "-o", model.parent / "made").stdout.splitlines()
    assert any(line.startswith("net.onnx") for line in lines)
    assert any(line.startswith("model.onnx") and "40 samples of test.npz, 2 runs" in line for line in lines)
    assert "exact: no, it is float16" in lines
    assert any(line.startswith("accuracy: ") and line.endswith("of 40 labels") for line in lines)
    assert f"written: {model.parent / 'made'}" in lines


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_number_types_are_measured_and_never_called_exact(tmp_path: Path, precision: str, opset: int) -> None:
    source = classifier(opset, size="dynamic")
    model = saved(source, tmp_path / "net.onnx")
    answers = onnxruntime.InferenceSession(model).run(None, {"image": np.load(sampled(tmp_path / "x.npz"))["image"]})[0]
    labels = answers.argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % CLASSES  # so that the source is right nine times out of ten
    samples = sampled(tmp_path / "test.npz", labels=labels)
    options = ("--fp16",) if precision == "float16" else ("--int8", "--calibrate", sampled(tmp_path / "train.npz"))
    manifest = deployed(model, "--target", "web", *options, "--inputs", samples)
    assert (manifest["precision"], manifest["exact"]) == (precision, False)
    assert manifest["accuracy"]["before"] == 0.9
    assert manifest["accuracy"]["labels"] == 40
    assert manifest["options"]["inputs"] == "test.npz"
    made = tmp_path / "made" / "model.onnx"
    proto = onnx.load(made)
    image = np.load(samples)["image"]
    actual = onnxruntime.InferenceSession(made).run(None, {"image": image})[0]
    assert manifest["accuracy"]["after"] == np.mean(actual.argmax(axis=1) == labels)
    # Two batches of 32 and 8 are measured; in one batch of 40 rounding may fall out a little differently.
    measured = np.abs(actual - answers).max() / np.abs(answers).max()
    assert manifest["deviations"][0]["relative"] == pytest.approx(measured, rel=0.05)
    bound = 5e-3 if precision == "float16" else 0.1
    assert 1e-5 < measured < bound
    assert (proto.graph.input, proto.graph.output) == (source.graph.input, source.graph.output)
    stored = {tensor.data_type for tensor in proto.graph.initializer if np.prod(tensor.dims) > 8}
    assert stored == {TensorProto.FLOAT16 if precision == "float16" else TensorProto.INT8}
    if precision == "int8":
        scales = {tuple(tensor.dims) for tensor in proto.graph.initializer if "kernel_scale" in tensor.name}
        assert scales == {(8,)}, "one scale for each channel"


def test_without_samples_to_measure_on_int8_is_measured_on_those_it_is_calibrated_with(model: Path) -> None:
    samples = sampled(model.parent / "train.npz", labels=np.arange(40) % CLASSES)
    manifest = deployed(model, "--target", "web", "--int8", "--calibrate", samples)
    assert manifest["deviations"][0]["inputs"] == "40 samples of train.npz"
    assert manifest["accuracy"]["labels"] == 40


def masked(tmp_path: Path) -> Path:
    """Return a network of images [N, 3, 6, 6] of which half of the channels in between are zeros."""
    random = np.random.default_rng(0)
    arrays = {"k": random.standard_normal((32, 3, 3, 3)), "l": random.standard_normal((32, 32, 1, 1))}
    arrays |= {"w": random.standard_normal((32, CLASSES))}
    arrays["k"][::2] = arrays["l"][1::2] = 0
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "l"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "masked",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    images = np.random.default_rng(1).standard_normal((16, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "images.npz", image=images)
    return saved(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )


def test_it_is_minimized_before_it_is_quantized(tmp_path: Path) -> None:
    model, samples = masked(tmp_path), tmp_path / "images.npz"
    before = model.read_bytes()
    manifest = deployed(model, "--target", "web", "--int8", "--calibrate", samples)
    assert any(note.startswith("minimized before it was quantized: ") for note in manifest["notes"])
    assert model.read_bytes() == before
    kernels = [
        tuple(tensor.dims)
        for tensor in onnx.load(tmp_path / "made" / "model.onnx").graph.initializer
        if len(tensor.dims) == 4
    ]
    assert kernels == [(16, 3, 3, 3), (16, 16, 1, 1)]


def test_the_size_is_the_same_whichever_comes_first(tmp_path: Path) -> None:
    model = masked(tmp_path)
    feeds = [{"image": np.load(tmp_path / "images.npz")["image"]}]
    minimized, first, last = (tmp_path / f"{name}.onnx" for name in ("minimized", "first", "last"))
    onnx.save(sq.minimize(model).model, minimized)
    to_int8(minimized, first, feeds)
    to_int8(model, last, feeds)
    result = sq.minimize(last)
    onnx.save(result.model, last)
    assert result.report.weights_after < result.report.weights_before
    assert abs(last.stat().st_size / first.stat().st_size - 1) < 0.03


def test_a_model_for_each_token(tmp_path: Path) -> None:
    weights = {"table": np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)}
    ids = (TensorProto.INT64, ["batch", "sequence"])
    nodes = [helper.make_node("Gather", ["table", "ids"], ["scores"])]
    model = saved(network(nodes, {"ids": ids}, {"scores": ["batch", "sequence", 7]}, weights), tmp_path / "net.onnx")
    tokens = np.random.default_rng(1).integers(0, 30, (6, 5))
    np.savez(tmp_path / "test.npz", ids=tokens, labels=weights["table"][tokens].argmax(-1))
    accuracy = deployed(model, "--target", "web", "--fp16", "--inputs", tmp_path / "test.npz")["accuracy"]
    assert accuracy == {"output": "scores", "labels": 30, "before": 1.0, "after": 1.0}


def test_samples_without_a_batch_axis(tmp_path: Path) -> None:
    weights = {"weight": np.eye(4, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["scores"])]
    model = saved(network(nodes, {"x": [4]}, {"scores": [4]}, weights), tmp_path / "net.onnx")
    np.savez(tmp_path / "test.npz", x=np.eye(4, dtype=np.float32)[[2, 0, 1]], labels=np.array([2, 0, 3]))
    manifest = deployed(model, "--target", "web", "--inputs", tmp_path / "test.npz")
    assert manifest["deviations"][0]["runs"] == 3
    assert manifest["accuracy"]["before"] == manifest["accuracy"]["after"] == 2 / 3


def test_batches_of_the_users_own_are_not_split(tmp_path: Path) -> None:
    weights = {"weight": np.eye(4, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["scores"])]
    model = saved(network(nodes, {"x": ["batch", 4]}, {"scores": ["batch", 4]}, weights), tmp_path / "net.onnx")
    labels = np.random.default_rng(0).integers(0, 4, (3, 40))
    np.savez(tmp_path / "test.npz", x=np.eye(4, dtype=np.float32)[labels], labels=labels)
    manifest = deployed(model, "--target", "web", "--inputs", tmp_path / "test.npz")
    assert manifest["deviations"][0]["runs"] == 3
    assert manifest["accuracy"] == {"output": "scores", "labels": 120, "before": 1.0, "after": 1.0}


def test_labels_that_no_output_has_scores_for_leave_a_note(model: Path) -> None:
    samples = sampled(model.parent / "test.npz", labels=np.zeros((40, 2, 2), np.int64))
    manifest = deployed(model, "--target", "web", "--inputs", samples)
    assert manifest["accuracy"] is None
    assert "no output has scores for labels of the shape [32, 2, 2], so no accuracy is given" in manifest["notes"]


def test_a_model_without_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["weight"], ["y"])]
    model = saved(network(nodes, {}, {"y": [3]}, {"weight": np.ones(3, np.float32)}), tmp_path / "net.onnx")
    np.savez(tmp_path / "test.npz")
    for options in ([], ["--force", "--inputs", tmp_path / "test.npz"]):
        assert deployed(model, "--target", "web", *options)["deviations"][0]["runs"] == 1


def test_external_data_is_taken_in_and_listed(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(classifier(), model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    manifest = deployed(model, "--target", "web")
    assert manifest["source"] == [digest(model), digest(tmp_path / "weights.bin")]
    (model.parent / "weights.bin").unlink()
    onnxruntime.InferenceSession(model.parent / "made" / "model.onnx")
