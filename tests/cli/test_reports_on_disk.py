"""What a report may replace: an earlier one, an empty file, by --force any other; never half of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Thread

import pytest

from onnxsqueeze.bench.plotting import plot
from tests.bench.test_report import REPORT
from tests.support.perceptrons import refused, run

FOREIGN = [
    b"precious",
    b'{"version": "1", "input": "mine"}',
    b"\x89PNG of mine",
    b"runtime,of,mine\n1,2,3\n",
    b"[" * 10**5,
]


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("command", ["minimize", "inspect", "verify", "deploy", "bench"])
def test_a_foreign_file_is_spared(pruned: Path, command: str, content: bytes) -> None:
    foreign = pruned.with_name("mine.png")
    foreign.write_bytes(content)
    models = [pruned, pruned] if command == "verify" else [pruned]
    arguments = [command, *models, *(["--target", "ort", "-o", pruned.with_name("d")] if command == "deploy" else [])]
    for option in ("--json", "--csv", "--plot") if command == "bench" else ("--json",):
        message = refused(run(*arguments, option, foreign), 2)
        assert message.startswith(f"{option} {foreign} would overwrite a file that is no report of onnxsqueeze; ")
        assert message.endswith("or replace it with --force")
    assert foreign.read_bytes() == content
    assert sorted(os.listdir(pruned.parent)) == ["mine.png", "net.onnx"]


@pytest.mark.parametrize("command", ["minimize", "inspect", "verify"])
def test_an_earlier_report_and_an_empty_file_are_replaced(pruned: Path, command: str) -> None:
    path = pruned.with_name("report.json")
    path.write_bytes(b"")
    models = [pruned, pruned] if command == "verify" else [pruned]
    for _ in range(2):
        assert run(command, *models, "--json", path).exit_code == 0
        assert json.loads(path.read_text())["version"]
    path.write_bytes(b"precious")
    assert run(command, *models, "--json", path, "--force").exit_code == 0
    assert json.loads(path.read_text())["version"]


def test_the_report_of_a_failed_verification_is_replaced(pruned: Path, wrong: None) -> None:
    path = pruned.with_name("report.json")
    for _ in range(2):
        assert run("minimize", pruned, "--json", path).exit_code == 4
        assert "verification" in json.loads(path.read_text())


def test_earlier_reports_of_a_benchmark_are_known(tmp_path: Path) -> None:
    from onnxsqueeze.cli.outputs import _is_report

    text = json.dumps({"version": "1", **REPORT.to_dict()})
    assert _is_report(text.encode())
    assert _is_report(REPORT.to_csv().encode())
    pytest.importorskip("matplotlib", reason="pip install onnxsqueeze[plot]")
    for suffix in (".svg", ".png"):
        plot(REPORT, tmp_path / f"plot{suffix}")
        assert _is_report((tmp_path / f"plot{suffix}").read_bytes())


def test_two_outputs_do_not_meet(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned.parent)
    message = refused(run("bench", "net.onnx", "--json", "r", "--csv", "./r"), 2)
    assert message == "--csv r would overwrite what --json writes; choose another path"
    for path in ("out.onnx", "./out.onnx"):
        message = refused(run("minimize", "net.onnx", "-o", "out.onnx", "--json", path), 2)
        assert message == "--json out.onnx would overwrite the model; choose another path"
    for path in ("out.onnx.data", "out.onnx.3.data"):  # where weights of 2 GB go
        message = refused(run("minimize", "net.onnx", "-o", "out.onnx", "--json", path), 2)
        assert message == f"--json {path} would overwrite the weights of out.onnx; choose another path"
    os.mkdir("made")
    for force in ([], ["--force"]):
        command = ["deploy", "net.onnx", "--target", "ort", "-o", "made", "--json", "made/manifest.json", *force]
        assert (
            refused(run(*command), 2)
            == "--json made/manifest.json would overwrite what is in made; choose another path"
        )
    assert sorted(os.listdir()) == ["made", "net.onnx"]


def test_a_report_into_a_pipe(pruned: Path) -> None:
    pipe = pruned.with_name("pipe")
    os.mkfifo(pipe)
    read: list[str] = []
    reader = Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert run("inspect", pruned, "--json", pipe).exit_code == 0
    reader.join(timeout=60)
    assert json.loads(read[0])["version"]
    assert run("inspect", pruned, "--json", os.devnull).exit_code == 0


def test_a_report_is_there_whole_or_not_at_all(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pruned.with_name("report.json")
    assert run("inspect", pruned, "--json", path).exit_code == 0
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    assert "No space left on device" in refused(run("inspect", pruned, "--json", path), 1)
    assert path.read_bytes() == before
    assert sorted(os.listdir(pruned.parent)) == ["net.onnx", "report.json"]
