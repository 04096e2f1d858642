"""What cannot be deployed: one line on stderr, the documented exit code, and the folder as it was."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxsqueeze.deployment import folder as folders
from onnxsqueeze.deployment import running
from onnxsqueeze.runtimes import RUNTIMES, Conversion, NotInstalledError
from tests.deployment.networks import CLASSES, classifier, needs, network, sampled, saved
from tests.support.perceptrons import refused, run


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a network, beside which the tests run; node is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONNXSQUEEZE_WEB", "nowhere")
    return saved(classifier(), tmp_path / "net.onnx")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that was deployed."""
    folder = tmp_path_factory.mktemp("earlier")
    saved(classifier(), folder / "net.onnx")
    assert run("deploy", folder / "net.onnx", "--target", "web", "-o", folder / "made", "--quiet").exit_code == 0
    return folder / "made"


@pytest.fixture
def earlier(model: Path, deployment: Path) -> dict[str, bytes]:
    """Put an earlier deployment beside the network; return what is there."""
    shutil.copytree(deployment, "made")
    return listing(model.parent)


def deploy(*arguments: object, target: str = "web", source: str = "net.onnx", output: str = "made") -> Any:
    return run("deploy", source, "--target", target, "-o", output, *arguments)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fp16", "--int8"], "--fp16 and --int8 exclude each other"),
        (["--int8"], "--int8 needs samples to calibrate with: --calibrate FILE.npz"),
        (["--calibrate", "x.npz"], "--calibrate is for --int8; samples to measure on are given with --inputs"),
        (["--target", "ncnn", "--int8", "--calibrate", "x.npz"], "ncnn cannot be given int8: pnnx stores quantized"),
        (["--target", "litert", "--int8", "--calibrate", "x.npz"], "litert cannot be given int8: onnx2tf takes no"),
        (["--target", "tpu"], "Invalid value for '--target': 'tpu' is not one of"),
        (["--dim", "depth=3"], "the model has no dynamic dimension 'depth'; it has 'batch'"),
        (["--timeout", "0"], "Invalid value for '--timeout'"),
        (["--inputs", "labels.npz"], "the samples lack the input 'image'"),
        (["--inputs", "few.npz"], "few.npz: the labels are int64[7]; give the number of the class for each of 40"),
        (["--inputs", "real.npz"], "real.npz: the labels are float64[40]; give the number of the class"),
        (["--inputs", "empty.npz"], "empty.npz holds no samples: its arrays are empty"),
        (["--inputs", "small.npz"], "small.npz: the model refuses a sample: "),
        (["-o", "-"], "-o - is refused: a deployment is a folder"),
        (["-o", "net.onnx"], "net.onnx is a file; give the name of a folder"),
        (["-o", "nowhere/made"], "nowhere/made: the folder "),
        (["-o", "there"], "there exists; choose another folder, or replace an earlier deployment with --force"),
        (["-o", "there", "--force"], "there holds no manifest.json of a deployment, so it is not replaced"),
    ],
)
def test_wrong_usage(model: Path, arguments: list[str], message: str) -> None:
    sampled(Path("x.npz"))
    sampled(Path("few.npz"), labels=np.zeros(7, np.int64))
    sampled(Path("real.npz"), labels=np.zeros(40))
    sampled(Path("empty.npz"), count=0)
    np.savez("labels.npz", labels=np.zeros(40, np.int64))
    np.savez("small.npz", image=np.zeros((1, 3, 5, 5), np.float32))
    Path("there").mkdir()
    Path("there", "manifest.json").write_text('{"format": "another"}', encoding="utf-8")
    before = listing(model.parent)
    assert refused(deploy(*arguments), 2).startswith(message)
    assert listing(model.parent) == before
    assert not Path("made").exists()


def test_an_earlier_deployment_is_replaced_only_by_force(earlier: dict[str, bytes]) -> None:
    first = listing(Path("made"))
    assert refused(deploy("--fp16"), 2).startswith("made exists")
    assert listing(Path("made")) == first
    assert deploy("--fp16", "--force", "--quiet").exit_code == 0
    assert listing(Path("made")).keys() == first.keys()
    assert listing(Path("made"))["model.onnx"] != first["model.onnx"]
    assert sorted(os.listdir()) == ["made", "net.onnx"]


def test_force_spares_files_that_no_deployment_has_written(earlier: dict[str, bytes]) -> None:
    Path("made", "notes").mkdir()
    Path("made", "notes", "mine.txt").write_text("mine", encoding="utf-8")
    before = listing(Path("made"))
    message = f"made holds '{Path('notes', 'mine.txt')}', which no deployment has written, so it is not replaced"
    assert refused(deploy("--force"), 2) == message
    assert listing(Path("made")) == before


def test_force_spares_the_model_itself(earlier: dict[str, bytes]) -> None:
    message = refused(deploy("--force", source="made/model.onnx"), 2)
    assert message == "made/model.onnx lies in made, which would be replaced; choose another folder"


def test_a_link_to_a_folder_is_followed(earlier: dict[str, bytes]) -> None:
    Path("made").rename("first")
    Path("made").symlink_to("first")
    assert deploy("--fp16", "--force", "--quiet").exit_code == 0
    assert Path("made").is_symlink()
    assert sorted(os.listdir()) == ["first", "made", "net.onnx"]


def test_an_unreadable_model(model: Path) -> None:
    model.write_bytes(b"no model")
    assert refused(deploy(), 3).startswith("net.onnx: is not an ONNX model")
    assert not Path("made").exists()


def test_a_runtime_that_is_not_installed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise NotInstalledError("openvino cannot be imported")

    monkeypatch.setitem(RUNTIMES, "openvino", replace(RUNTIMES["openvino"], version=missing))
    message = refused(deploy(target="openvino"), 2)
    assert message.startswith("OpenVINO is not installed: openvino cannot be imported; pip install")
    assert not Path("made").exists()


def test_node_may_be_missing(model: Path) -> None:
    result = deploy()
    assert result.exit_code == 0
    assert "note: not run in onnxruntime-web: onnxruntime-web is not in nowhere" in result.stdout


def fake(monkeypatch: pytest.MonkeyPatch, convert: Callable[[Conversion], tuple[Path, ...]]) -> None:
    """Let a function of this module convert for onnxruntime."""
    monkeypatch.setitem(RUNTIMES, "onnxruntime", replace(RUNTIMES["onnxruntime"], convert=convert))
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def crash(conversion: Conversion) -> tuple[Path, ...]:
    """Die as a runtime written in C++ does."""
    (conversion.folder / "half.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def hang(conversion: Conversion) -> tuple[Path, ...]:
    """Never come back."""
    while True:
        signal.pause()


def fail(conversion: Conversion) -> tuple[Path, ...]:
    """Raise something."""
    raise ZeroDivisionError("division by zero")


def double(conversion: Conversion) -> tuple[Path, ...]:
    """Write a model that computes something else."""
    proto = onnx.load(conversion.model)
    proto.graph.node[-1].attribute.append(helper.make_attribute("alpha", 2.0))
    return (saved(proto, conversion.folder / "model.onnx"),)


def explode(conversion: Conversion) -> tuple[Path, ...]:
    """Write a model that answers with infinities."""
    proto = onnx.load(conversion.model)
    proto.graph.node[-1].attribute.append(helper.make_attribute("beta", float("inf")))
    return (saved(proto, conversion.folder / "model.onnx"),)


def rename(conversion: Conversion) -> tuple[Path, ...]:
    """Write a model whose output has another name."""
    proto = onnx.load(conversion.model)
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "other"
    return (saved(proto, conversion.folder / "model.onnx"),)


@pytest.mark.parametrize(
    ("convert", "code", "message"),
    [
        (crash, 5, "onnxruntime does not take the model: it crashed: SIGSEGV"),
        (fail, 5, "onnxruntime does not take the model: ZeroDivisionError: division by zero"),
        (hang, 5, "onnxruntime does not take the model: its time is up; allow more with --timeout"),
        (double, 4, "model.onnx in onnxruntime {version} does not compute what net.onnx computes: it deviates by "),
        (explode, 4, "model.onnx in onnxruntime {version} does not compute what net.onnx computes: of its output "),
        (rename, 4, "model.onnx in onnxruntime {version} does not compute what net.onnx computes: it has no output "),
    ],
)
def test_nothing_is_left_of_what_fails(
    earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, convert: Any, code: int, message: str
) -> None:
    fake(monkeypatch, convert)
    seconds = 1 if convert is hang else 60
    said = refused(deploy("--force", "--timeout", seconds), code)
    assert said.startswith(message.format(version=RUNTIMES["onnxruntime"].version()))
    assert listing(Path.cwd()) == earlier
    assert sorted(os.listdir()) == ["made", "net.onnx"]


def count(conversion: Conversion) -> tuple[Path, ...]:
    """Write a model whose integers are off by one."""
    proto = onnx.load(conversion.model)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.arange(1, 5), "weight"))
    return (saved(proto, conversion.folder / "model.onnx"),)


def test_integers_must_be_equal(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [helper.make_node("Add", ["x", "weight"], ["y"])]
    integers = (TensorProto.INT64, ["batch", 4])
    saved(network(nodes, {"x": integers}, {"y": integers}, {"weight": np.arange(4)}), model)
    assert deploy("--quiet", output="right").exit_code == 0
    np.savez("x.npz", x=np.full((5, 4), 10**6))  # so large that one more is less than any tolerance
    fake(monkeypatch, count)
    message = refused(deploy("--inputs", "x.npz"), 4)
    assert message.endswith("does not compute what net.onnx computes: 20 of the integers that it gives differ")


def test_an_interruption_leaves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "perform", interrupted)
    assert refused(deploy(), 130) == "interrupted; nothing is left half written"
    assert os.listdir() == ["net.onnx"]


def test_a_full_disk(earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "_put_on_disk", full)
    message = refused(deploy("--force"), 1)
    assert message == f"{Path('made').resolve()}: cannot be written: No space left on device; free some space or " + (
        "choose another folder"
    )
    assert listing(Path.cwd()) == earlier


def test_a_rename_that_fails_puts_the_former_folder_back(
    earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = os.rename
    seen: list[object] = []

    def rename_once(source: Any, target: Any) -> None:
        seen.append(source)
        if len(seen) == 2:
            raise PermissionError(13, "Permission denied")
        right(source, target)

    monkeypatch.setattr(os, "rename", rename_once)
    assert "cannot be written: Permission denied" in refused(deploy("--force"), 2)
    assert listing(Path.cwd()) == earlier


def floats(weight: Any, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    shape = ["batch", weight.shape[0]]
    return network(nodes, {"x": (kind, shape)}, {"y": (kind, ["batch", weight.shape[1]])}, {"weight": weight})


@pytest.mark.parametrize(
    ("weight", "kind", "arguments", "message"),
    [
        (np.ones((4, 3), np.float16), TensorProto.FLOAT16, ["--fp16"], "it holds no float32 numbers"),
        (np.ones((4, 3), np.float64), TensorProto.DOUBLE, ["--int8", "--calibrate", "x.npz"], "it holds no float32"),
        (np.full((4, 3), 1e6, np.float32), TensorProto.FLOAT, ["--fp16"], "its weight 'weight' holds 1e+06"),
    ],
)
def test_models_that_do_not_fit_a_number_type(
    model: Path, weight: Any, kind: int, arguments: list[str], message: str
) -> None:
    saved(floats(weight, kind), model)
    np.savez("x.npz", x=np.ones((8, 4), np.float32))
    assert message in refused(deploy(*arguments), 5)
    assert not Path("made").exists()


def test_nothing_to_quantize(model: Path) -> None:
    nodes = [helper.make_node("Erf", ["x"], ["y"])]
    saved(network(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, {}), model)
    np.savez("x.npz", x=np.ones((8, 4), np.float32))
    message = refused(deploy("--int8", "--calibrate", "x.npz"), 5)
    assert message == "net.onnx: it has no operator that is quantized"


def test_random_numbers_cannot_be_compared(model: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["y"])]
    saved(network(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, {}), model)
    assert refused(deploy(), 2).startswith("net.onnx draws random numbers (RandomNormalLike)")


def test_a_runtime_of_one_size_must_be_told_it(model: Path) -> None:
    saved(classifier(size="dynamic"), model)
    needs("ncnn")
    assert (
        refused(deploy(target="ncnn"), 2) == "ncnn takes one size of each dimension; say which with --dim height=SIZE"
    )
    sampled(Path("x.npz"), labels=np.arange(40) % CLASSES)
    sizes = ["--dim", "height=12", "--dim", "width=14"]
    assert refused(deploy(*sizes, "--inputs", "x.npz", target="ncnn"), 2).startswith("dimension 'width' cannot have")
    batch = ["--dim", "height=12", "--dim", "width=12", "--dim", "batch=7"]
    assert refused(deploy(*batch, "--inputs", "x.npz", target="ncnn"), 2).startswith("40 samples cannot be split")


def test_help_documents_every_option() -> None:
    text = run("deploy", "--help").stdout
    options = "--target --output --force --fp16 --int8 --calibrate --timeout --samples --inputs --dim --input-shape"
    for word in (*options.split(), "--json", "--quiet", "--verbose", "manifest.json", "Exit codes:"):
        assert word in text
