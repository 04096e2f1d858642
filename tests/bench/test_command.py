"""The command: what it refuses, what it prints, and Ctrl-C."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsqueeze.bench import Settings, bench
from onnxsqueeze.runtimes import RUNTIMES
from tests.bench import fakes
from tests.bench.networks import image_classifier, pair
from tests.bench.test_lanes import gone
from tests.support.perceptrons import perceptron, refused, run, saved, weights

QUICK = Settings(seconds=0.01, launches=1)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know the fakes, and them alone."""
    for name in list(RUNTIMES):
        monkeypatch.delitem(RUNTIMES, name)
    for runtime in (fakes.HONEST, fakes.ABSENT):
        monkeypatch.setitem(RUNTIMES, runtime.name, runtime)


def quickly(*arguments: object) -> object:
    return run("bench", *arguments, "--seconds", "0.01")


def test_all_forms_of_the_report(known: None, tmp_path: Path) -> None:
    models, files = pair(tmp_path), [tmp_path / name for name in ("out.json", "out.csv", "out.svg")]
    pytest.importorskip("matplotlib", reason="pip install onnxsqueeze[plot]")
    result = quickly(*models, "--json", files[0], "--csv", files[1], "--plot", files[2])
    assert result.exit_code == 0, result.output
    assert "absent: not installed: pip install absent (libabsent.so is missing)\n" in result.stdout
    report = json.loads(files[0].read_text(encoding="utf-8"))
    assert [entry["runtime"] for entry in report["measurements"]] == ["honest", "honest"]
    lines = list(csv.DictReader(io.StringIO(files[1].read_text(encoding="utf-8"))))
    assert [line["runtime"] for line in lines] == ["honest", "honest", "absent"]
    assert files[2].stat().st_size > 1000


def test_json_on_stdout(known: None, tmp_path: Path) -> None:
    model = pair(tmp_path)[0]
    result = quickly(model, "--json", "-", "--batch", 3, "--runtime", "honest")
    assert json.loads(result.stdout)["sizes"] == {"batch": 3}
    assert "exclude each other" in refused(quickly(model, "--csv", "-", "--json", "-"), 2)


def test_nothing_measured_is_an_error(known: None, tmp_path: Path) -> None:
    result = quickly(pair(tmp_path)[0], "--runtime", "absent", "--quiet")
    assert refused(result, 5) == "nothing was measured: no runtime is installed and takes a model"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--runtime", "abacus"], "there is no runtime 'abacus'; give all or some of honest, absent"),
        (["--dim", "rows=2"], "the model has no dynamic dimension 'rows'; it has 'batch'"),
        (["--plot", "plot.jpg"], "--plot plot.jpg: give a name that ends in .svg or .png"),
        (["--csv", "nowhere/out.csv"], "the folder nowhere does not exist"),
    ],
)
def test_refused_options(known: None, tmp_path: Path, arguments: list[str], reason: str) -> None:
    assert reason in refused(quickly(pair(tmp_path)[0], *arguments), 2)


def test_a_report_does_not_overwrite_a_model(known: None, tmp_path: Path) -> None:
    model = pair(tmp_path)[0]
    assert "--csv" in refused(quickly(model, "--csv", model), 2)
    assert onnx.load(model).graph.name == "perceptron"


def test_sizes_must_be_known(known: None, tmp_path: Path) -> None:
    model = onnx.load(image_classifier(tmp_path / "net.onnx"))
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[2].dim_param, shape.dim[0].dim_value = "height", 1
    path = saved(model, tmp_path / "high.onnx")
    wanted = "the model has the dynamic dimension 'height'; say which to measure with --dim height=SIZE"
    assert wanted in refused(quickly(path), 2)
    result = quickly(path, "--dim", "height=8", "--batch", 2)
    assert "--batch 2: the model has no dynamic batch dimension" in refused(result, 2)
    assert bench([path], ["absent"], Settings(dims={"height": 8})).sizes == {"height": 8}


def test_models_must_take_the_same_inputs(known: None, tmp_path: Path) -> None:
    model, classifier = pair(tmp_path)[0], image_classifier(tmp_path / "net.onnx")
    assert "takes other inputs than the first model" in refused(quickly(model, classifier), 2)
    fixed = perceptron(*weights())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    path = saved(fixed, tmp_path / "fixed.onnx")
    assert "does not take the inputs of the first model" in refused(quickly(model, path), 2)


def test_a_model_that_onnxruntime_refuses(known: None, tmp_path: Path) -> None:
    model = onnx.load(pair(tmp_path)[0])
    model.graph.node[1].op_type, model.graph.node[1].domain = "Abacus", "elsewhere"
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    path = saved(model, tmp_path / "custom.onnx")
    assert "onnxruntime, with which all is compared, refuses it" in refused(quickly(path), 5)


def test_outputs_of_random_models_are_not_compared(tmp_path: Path) -> None:
    model = onnx.load(pair(tmp_path)[0])
    model.graph.node[1].op_type = "RandomNormalLike"
    report = bench([saved(model, tmp_path / "random.onnx")], [fakes.HONEST], QUICK)
    assert [entry.deviation for entry in report.measurements] == [None]
    assert "the first model draws random numbers, so that no outputs were compared" in report.warnings


def test_external_data_counts(tmp_path: Path) -> None:
    units_in, units_out = weights()
    model = perceptron(np.tile(units_in, 99), np.tile(units_out, (99, 1)))
    path, data = tmp_path / "net.onnx", tmp_path / "net.bin"
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
    report = bench([path], [fakes.HONEST], QUICK)
    size = path.stat().st_size + data.stat().st_size
    assert report.models[0].bytes == size
    assert report.models[0].gzip_bytes < size / 2
    assert report.measurements[0].bytes == pytest.approx(size, rel=0.1)  # inlined again


INTERRUPTED = """
import sys
from onnxsqueeze.cli.main import main
from onnxsqueeze.runtimes import RUNTIMES
from tests.bench import fakes
RUNTIMES.clear()
RUNTIMES.update(honest=fakes.HONEST, hanging=fakes.HANGING)
main(["bench", *sys.argv[1:], "--seconds", "0.01"])
"""


def test_ctrl_c_leaves_what_was_measured(tmp_path: Path) -> None:
    marker, out = tmp_path / "marker", tmp_path / "out.json"
    paths = os.pathsep.join(map(os.path.abspath, sys.path))
    variables = {**os.environ, fakes.MARKER: str(marker), "PYTHONPATH": paths}
    command = [sys.executable, "-c", INTERRUPTED, *pair(tmp_path), "--json", out]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    while not marker.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, complained = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complained.splitlines()[-1] == "onnxsqueeze: error: interrupted; the rest was not measured"
    assert "honest" in printed
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["interrupted"]
    assert [entry["latency"] is not None for entry in report["measurements"]] == [True, True, False, False]
    assert all(gone(int(number)) for number in marker.read_text(encoding="ascii").split())
