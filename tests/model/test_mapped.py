"""Large weights in data files are mapped, and a model may be written over the one that they are mapped from."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.saving import save
from onnxsqueeze.rewriting import surgery
from tests.support.planted.checks import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a network with weights in a data file, half of whose hidden units are dead."""
    random = np.random.default_rng(0)
    first = random.standard_normal((64, 600)).astype(np.float32)
    first[:, ::2] = 0
    second = random.standard_normal((600, 700)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, size]) for n, size in (("x", 64), ("y", 700))]
    stored = [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data")
    return tmp_path / "net.onnx"


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array lies in a mapped file."""
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, mmap.mmap)


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is mapped")
def test_large_weights_are_mapped_and_read_only(path: Path) -> None:
    model = load(path)
    assert all(is_mapped(each.array) for each in model.initializers.values())
    with pytest.raises(ValueError, match="read-only"):
        model.initializers["a"].array[0] = 1


def test_a_model_is_written_over_what_its_weights_are_mapped_from(path: Path) -> None:
    model, before = load(path), np.array(load(path).initializers["b"].array)
    save(model, path, data_file=True)
    np.testing.assert_array_equal(load(path).initializers["b"].array, before)


def test_new_weights_of_large_models_wait_in_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgery, "SPILLED_FROM", 1)
    monkeypatch.setattr("onnxsqueeze.processes.spilling._SMALLEST", 1000)
    result = sq.minimize(path, round_to=1)
    assert {each.shape for each in result.minimized.initializers.values()} == {(64, 300), (300, 700)}
    assert all(is_mapped(each.array) for each in result.minimized.initializers.values())
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)}
    np.testing.assert_allclose(run(result.model, feeds)[0], run(onnx.load(path), feeds)[0], rtol=1e-3, atol=1e-3)
