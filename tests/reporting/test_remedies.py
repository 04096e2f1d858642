"""What can be done about a reason is one text, wherever it is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import PAGE, Reason, Why
from onnxsqueeze.reporting.advice import remedies
from onnxsqueeze.reporting.stayed import words
from tests.support.perceptrons import run


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_known_by_its_words(reason: Reason) -> None:
    """No reason begins with the words of another one, and a detail changes nothing."""
    for detail in ("", "Softmax"):
        assert Reason.of(words(Why(reason, detail))) is reason
    assert reason.remedy.endswith(".") and reason.remedy[0] in f"`{reason.remedy[0].upper()}"


def test_other_texts_have_none() -> None:
    assert remedies(["every channel stays", "it is a graph output: y", "it is a graph output: z"]) == [
        (Reason.GRAPH_OUTPUT.value, Reason.GRAPH_OUTPUT.remedy, f"{PAGE}#graph_output")
    ]


def compared() -> ModelProto:
    """x -> MatMul -> TopK over channels, half of which are 0: none can go, since their places are compared."""
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    weight[:, ::2] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("TopK", ["h", "k"], ["values", "y"], name="top", axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 3])
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([3]), "k")]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_terminal_and_page_say_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    path = tmp_path / "net.onnx"
    onnx.save(compared(), path)
    shown = f"{Reason.COMPARED.remedy} ({PAGE}#compared)"
    assert shown in run("inspect", path).stdout
    assert shown in run("minimize", path, "--verbose").stdout
    assert shown not in run("minimize", path).stdout
    assert Reason.COMPARED.remedy in sq.minimize(path, verify=False).page("a model")
