"""Initializers that are inputs too can be overridden: they stay, and it is said so, unless a user declares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import onnxsqueeze as sq
from onnxsqueeze.cli.main import main
from tests.model.test_constant_nodes import network
from tests.support.planted.checks import assert_equal_outputs, weights

WARNING = "2 initializers are graph inputs too"


@pytest.fixture
def listed() -> onnx.ModelProto:
    model = network(64, as_nodes=False)
    infos = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
    model.graph.input.extend(infos)
    return model


def test_they_stay_and_are_counted(listed: onnx.ModelProto) -> None:
    result = sq.minimize(listed)
    assert result.model.graph == listed.graph
    assert sum(WARNING in warning for warning in result.report.warnings) == 1
    assert any("can be overridden" in reason for reason in result.report.stayed)
    assert not any("run time" in reason for reason in result.report.stayed), "it is stored"
    rows = [(layer.weights_before, layer.sparsity > 0) for layer in result.report.layers]
    assert rows == [(1024, True), (512, False)]
    assert "can be overridden: w1 (32, at h)" in result.report.why_nothing


def test_declared_constant_they_are_weights_and_no_inputs(listed: onnx.ModelProto) -> None:
    result = sq.minimize(listed, fix_inputs=True, round_to=1)
    assert [info.name for info in result.model.graph.input] == ["x"]
    assert weights(result.model) == sorted([(32, 16), (8, 32)])
    assert_equal_outputs(listed, result.model)
    assert result.report.warnings == ()
    assert sq.inspect(listed, fix_inputs=True, round_to=1).weights_after == 32 * 24


def test_inputs_go_even_if_no_channel_does() -> None:
    model = network(16, as_nodes=False)
    for tensor in model.graph.initializer:
        tensor.raw_data = np.ones(tuple(tensor.dims), np.float32).tobytes()
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    result = sq.minimize(model, fix_inputs=True)
    assert [info.name for info in result.model.graph.input] == ["x"]


def test_before_ir_4_all_are_inputs_and_none_is_meant() -> None:
    result = sq.minimize(network(64, as_nodes=False, ir_version=3), round_to=1)
    assert weights(result.model) == sorted([(32, 16), (8, 32)])
    assert result.report.warnings == ()


def test_at_the_command_line(listed: onnx.ModelProto, tmp_path: Path) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(listed, path)
    run = CliRunner().invoke(main, ["minimize", str(path), "-o", str(out)])
    assert run.exit_code == 0 and run.stderr.count(WARNING) == 1 and "--fix-inputs" in run.stderr
    run = CliRunner().invoke(main, ["minimize", str(path), "-o", str(out), "--fix-inputs", "--round-to", "1"])
    assert run.exit_code == 0 and WARNING not in run.stderr
    assert weights(onnx.load(out)) == sorted([(32, 16), (8, 32)])
