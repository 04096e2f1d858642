"""What `minimize` writes and prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxsqueeze
from tests.support.perceptrons import HIDDEN, LIVE, perceptron, refused, run, saved, weights, width


def test_minimize_writes_a_smaller_model_beside_the_input(pruned: Path) -> None:
    result = run("minimize", pruned)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert width(pruned.with_name("net.min.onnx")) == LIVE
    assert sorted(path.name for path in pruned.parent.iterdir()) == ["net.min.onnx", "net.onnx"]


def test_minimize_prints_layers_totals_deviation_and_time(pruned: Path) -> None:
    output = run("minimize", pruned).stdout
    assert re.search(r"first +Gemm +4x8 -> 4x3 +40 -> 15 +32 -> 12\n", output)
    assert re.search(r"second +MatMul +8x5 -> 3x5 +40 -> 15 +40 -> 15\n", output)
    assert re.search(r"weight elements +80 +35 +2\.29x\n", output)
    assert re.search(r"file size +\d+ B +\d+ B +\d\.\d\dx\n", output)
    assert re.search(r"MACs +72 +27 +2\.67x\n", output)
    assert re.search(r"nodes +3 +4 +0\.75x\n", output)
    assert re.search(r"largest deviation: \S+ of the output's scale \(allowed \S+; \d+ runs\)\n", output)
    assert re.search(r"time: \S+ m?s \(load .*s, analyse .*s, minimize .*s, verify .*s, write .*s\)\n", output)
    assert f"written: {pruned.with_name('net.min.onnx')}\n" in output


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.onnx", "net.min.onnx"),
        ("net.v2.onnx", "net.v2.min.onnx"),
        ("NET.ONNX", "NET.min.onnx"),
        ("net", "net.min.onnx"),
    ],
)
def test_the_default_output_is_named_after_the_input(pruned: Path, name: str, expected: str) -> None:
    source = pruned.rename(pruned.with_name(name))
    assert run("minimize", source, "--no-verify").exit_code == 0
    assert width(source.with_name(expected)) == LIVE


def test_when_nothing_can_go_the_output_is_a_copy_and_the_reason_is_given(dense: Path) -> None:
    result = run("minimize", dense)
    assert result.exit_code == 0
    assert "nothing could go: every channel is needed: no weight is zero\n" in result.stdout
    assert onnx.load(dense.with_name("dense.min.onnx")) == onnx.load(dense)


def test_no_verify_runs_nothing(pruned: Path, wrong: None) -> None:
    result = run("minimize", pruned, "--no-verify")
    assert result.exit_code == 0
    assert "verified: no, on request\n" in result.stdout


def test_a_failed_verification_writes_nothing_and_names_the_layer(pruned: Path, wrong: None) -> None:
    message = refused(run("minimize", pruned), 4)
    assert message.startswith("verification failed: output 'y'")
    assert "second (MatMul)" in message
    assert list(pruned.parent.iterdir()) == [pruned]


def test_a_failed_verification_goes_into_the_json(pruned: Path, wrong: None) -> None:
    result = run("minimize", pruned, "--json", "-")
    refused(result, 4)
    report = json.loads(result.stdout)
    assert report["verification"]["passed"] is False
    assert "second" in report["verification"]["first_deviating"]
    assert report["error"].startswith("verification failed: output")


def test_tolerances_are_passed_on(pruned: Path, wrong: None) -> None:
    assert run("minimize", pruned, "--rtol", "4").exit_code == 0  # both weights are doubled: the outputs are off by 3
    assert run("minimize", pruned, "--rtol", "0", "--atol", "1000").exit_code == 0


def test_json_to_stdout_is_all_that_stdout_gets(pruned: Path) -> None:
    result = run("minimize", pruned, "--json", "-")
    report = json.loads(result.stdout)
    assert result.stderr == ""
    assert report["version"] == onnxsqueeze.__version__
    assert report["output"] == str(pruned.with_name("net.min.onnx"))
    assert (report["weights_before"], report["weights_after"]) == (80, 35)
    assert [layer["shape_after"] for layer in report["layers"]] == [[4, 3], [3, 5]]
    assert report["layers"][0] | {"removed": 5, "dead": 3, "constant": 2} == report["layers"][0]
    assert report["verification"]["passed"] is True
    assert report["bytes_after"] == pruned.with_name("net.min.onnx").stat().st_size
    assert set(report["seconds"]) == {"load", "analyse", "minimize", "verify", "write"}


def test_json_to_a_file_leaves_the_table(pruned: Path, tmp_path: Path) -> None:
    result = run("minimize", pruned, "--json", tmp_path / "report.json")
    assert "weight elements" in result.stdout
    assert json.loads((tmp_path / "report.json").read_text())["ratio"] == pytest.approx(80 / 35, rel=1e-12)


def test_quiet_prints_nothing(pruned: Path) -> None:
    result = run("minimize", pruned, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert run("inspect", pruned, "--quiet").output == ""
    assert run("verify", pruned, pruned, "--quiet").output == ""


def test_verbose_and_json_count_what_stayed_by_its_reason(pruned: Path) -> None:
    result = run("minimize", pruned, "--keep", "hid*", "--verbose")
    assert re.search(r"kept on request: hidden +first, \S+ +16\n", result.stdout)  # before and behind the Relu
    report = json.loads(run("minimize", pruned, "--keep", "hid*", "--json", "-").stdout)
    assert report["stayed"]["kept on request: hidden"] == 2 * HIDDEN
    assert report["layers"][0]["stayed"]["kept on request: hidden"] == 5  # three of them dead, two constant


def test_keep_pins_and_rounding_keeps_more(pruned: Path) -> None:
    target = pruned.with_name("net.min.onnx")
    assert run("minimize", pruned, "--keep", "hidden", "--no-verify").exit_code == 0
    assert width(target) == HIDDEN
    assert run("minimize", pruned, "--round-to", "2", "--no-verify").exit_code == 0
    assert width(target) == 4
    assert run("minimize", pruned, "--round-to", "1", "--no-verify").exit_code == 0
    assert width(target) == LIVE


def test_force_replaces_the_input(pruned: Path) -> None:
    assert run("minimize", pruned, "-o", pruned, "--force").exit_code == 0
    assert width(pruned) == LIVE


def test_an_existing_output_is_replaced(pruned: Path) -> None:
    target = pruned.with_name("net.min.onnx")
    target.write_text("old")
    assert run("minimize", pruned).exit_code == 0
    assert width(target) == LIVE


def test_warnings_go_to_stderr(dense: Path) -> None:
    units_in, units_out = weights()
    units_in[0, 0] = np.nan
    result = run("minimize", saved(perceptron(units_in, units_out), dense), "--no-verify", "--json", "-")
    assert result.stderr == "onnxsqueeze: warning: weights of w1 hold NaN or Inf; the layer is left as it is\n"
    assert json.loads(result.stdout)["warnings"] == ["weights of w1 hold NaN or Inf; the layer is left as it is"]
