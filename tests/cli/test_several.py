"""Several files in one run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result

import onnxsqueeze
from tests.support.perceptrons import HIDDEN, perceptron, refused, run, saved, weights, width


@pytest.fixture
def both(pruned: Path, dense: Path) -> tuple[Path, Path]:
    return pruned, dense


def lines(result: Result, *names: str) -> list[str]:
    """Return the line of the table for each file."""
    return [next(line for line in result.stdout.splitlines() if line.startswith(name)) for name in names]


def test_each_is_written_beside_itself_and_has_a_line(both: tuple[Path, Path]) -> None:
    result = run("minimize", *both, "--round-to", 1)
    assert result.exit_code == 0, result.output
    first, second = lines(result, *map(str, both))
    assert "40.0 %" in first or "37.5 %" in first or " -> " in first
    assert "100.0 %" in second
    assert width(both[0].with_name("net.min.onnx")) < width(both[1].with_name("dense.min.onnx")) == HIDDEN


def test_a_folder_and_a_pattern(both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("minimize", "*.onnx", "-o", "out", "--json", "out.json")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dense.min.onnx", "net.min.onnx"]
    files = json.loads((tmp_path / "out.json").read_text())["files"]
    assert [each["path"] for each in files] == ["dense.onnx", "net.onnx"]
    assert all(each["exit_code"] == 0 and each["weights_after"] for each in files)
    assert run("verify", *both, "out").exit_code == 0
    assert run("inspect", "*.onnx").exit_code == 0


def test_one_that_fails_does_not_stop_the_others(both: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"<html></html>")
    result = run("minimize", both[0], broken, both[1], "--json", tmp_path / "out.json")
    assert result.exit_code == 3
    assert [line.split(": ")[2] for line in result.stderr.splitlines()] == [str(broken)]
    assert "failed" in lines(result, str(broken))[0]
    assert both[1].with_name("dense.min.onnx").exists()
    files = json.loads((tmp_path / "out.json").read_text())["files"]
    assert [each["exit_code"] for each in files] == [0, 3, 0]
    assert "an HTML page" in files[1]["error"]
    assert run("inspect", *both, broken).exit_code == 3
    assert run("inspect", *both, tmp_path / "missing.onnx", "--quiet").stdout == ""


def test_an_error_that_nobody_foresaw_does_not_stop_them_either(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnxsqueeze.minimize

    def fails_once(source: Path, **options: object) -> object:
        if source == both[0]:
            raise KeyError("no such thing")
        return right(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(onnxsqueeze, "minimize", fails_once)
    result = run("minimize", *both)
    assert result.exit_code == 1
    assert "internal error: KeyError" in result.stderr
    assert both[1].with_name("dense.min.onnx").exists()


def test_others_are_compared_with_the_first(both: tuple[Path, Path], tmp_path: Path) -> None:
    other = saved(perceptron(*weights(seed=1)), tmp_path / "other.onnx")
    same = saved(onnx.load(both[1]), tmp_path / "same.onnx")
    result = run("verify", both[1], same, other)
    assert result.exit_code == 4
    assert "not equivalent" in lines(result, str(other))[0]
    assert "not" not in lines(result, str(same))[0]


def test_two_must_not_be_written_to_one_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(perceptron(*weights()), tmp_path / name / "net.onnx")
    found = refused(run("minimize", tmp_path / "a/net.onnx", tmp_path / "b/net.onnx", "-o", tmp_path / "out"), 2)
    assert "would both be written to" in found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["minimize", "inspect"])
@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_is_no_model(command: str, folder: str) -> None:
    assert refused(run(command, folder), 3) == f"{folder}: is a folder; give the path of the ONNX file inside it"


def external(path: Path) -> Path:
    """Write a network that has its weights in a file beside it."""
    random = np.random.default_rng(0)
    units = random.normal(size=(40, 30)), random.normal(size=(30, 50))
    units[1][:10] = 0
    model = perceptron(*(each.astype(np.float32) for each in units))
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    return path


@pytest.mark.parametrize(
    ("given", "option", "data_file"),
    [(True, [], True), (True, ["no"], False), (True, ["yes"], True), (False, [], False), (False, ["yes"], True)],
)
def test_external_data_stays_that(tmp_path: Path, given: bool, option: list[str], data_file: bool) -> None:
    source = external(tmp_path / "net.onnx")
    if not given:
        source = saved(onnx.load(source), tmp_path / "one.onnx")
    target = tmp_path / "out.onnx"
    arguments = ["--external-data", *option] if option else []
    assert run("minimize", source, "-o", target, "--round-to", 1, *arguments).exit_code == 0
    assert (tmp_path / "out.onnx.data").exists() == data_file
    assert run("verify", source, target).exit_code == 0
    assert width(target) == 20


def test_only_the_tensors_asked_for_are_narrowed(tmp_path: Path) -> None:
    """What shares channels with them goes along, and nothing else."""
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=(8, 8)).astype(np.float32) for name in ("w1", "w2", "w3")}
    arrays["w2"][:3] = 0
    arrays["w3"][:4] = 0
    nodes = [onnx.helper.make_node("MatMul", ["x", "w1"], ["first"]), onnx.helper.make_node("Relu", ["first"], ["r"])]
    nodes += [
        onnx.helper.make_node("MatMul", ["r", "w2"], ["second"]),
        onnx.helper.make_node("Relu", ["second"], ["s"]),
    ]
    nodes.append(onnx.helper.make_node("MatMul", ["s", "w3"], ["y"]))
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["N", 8]) for name in ("x", "y")]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    for only, widths in (((), [5, 4]), (("first",), [5, 8]), (("s",), [8, 4]), (("first", "sec*"), [5, 4])):
        report = onnxsqueeze.minimize(model, round_to=1, only=only).report
        assert [layer.channels - layer.removed for layer in report.layers[:2]] == widths, only
    assert "not among the tensors that were asked for" in " ".join(onnxsqueeze.inspect(model, only=["first"]).stayed)
