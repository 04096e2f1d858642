"""Changed weights are judged by what the whole network would give, and only what they reach is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing import evaluation
from onnxsqueeze.squeezing.evaluation import Evaluator
from onnxsqueeze.squeezing.gathering import with_arrays
from onnxsqueeze.squeezing.metrics import METRICS, Judge
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import read

_ROUNDING = 1e-4  # of single precision, in a squared error of networks that are cut at another place


def network() -> ModelProto:
    """A residual network with two outputs, a shape that it computes, a table of constants, and an If that captures."""
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=(6, 6)) * 0.5 for i in range(5)} | {"b": random.normal(size=6)}
    branches = [
        helper.make_graph([node], name, [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])
        for name, node in (
            ("then", helper.make_node("MatMul", ["s", "w3"], ["o"])),
            ("else", helper.make_node("Identity", ["s"], ["o"])),
        )
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["early"]),
        helper.make_node("MatMul", ["r", "w2"], ["m"]),
        helper.make_node("Add", ["m", "r"], ["s"]),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["c"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Neg", ["b"], ["nb"]),
        helper.make_node("Add", ["c", "nb"], ["a"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["a", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w4"], ["late"]),
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in ("x", "early", "late")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODEL = load(network())
ROWS = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
PART = read({"x": ROWS}, MODEL).calibration


class Both(Judge):
    """Judges all outputs; a metric looks at one."""

    def error(self, before: Sequence[Any], after: Sequence[Any]) -> float:
        return sum(Judge(METRICS["deviation"], place).error(before, after) for place in range(len(before)))


JUDGE = Both(METRICS["deviation"], 0)
ARRAYS = {name: initializer.array for name, initializer in MODEL.initializers.items()}
REACHED = {"w0": 9, "w1": 1, "w2": 6, "w3": 4, "b": 4, "w4": 1}
"""By weight how many nodes with inputs that vary it reaches."""


def changed(*names: str, seed: int = 2) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    noise = {name: random.normal(size=ARRAYS[name].shape).astype(np.float32) for name in names}
    return {name: array + noise[name] if name in noise else array for name, array in ARRAYS.items()}


def expected(arrays: dict[str, Any]) -> float:
    return JUDGE.error(outputs_of(MODEL, PART), outputs_of(with_arrays(MODEL, arrays), PART))


@pytest.mark.parametrize("names", [*([name] for name in REACHED), ["w1", "w4"], list(REACHED), []], ids="-".join)
@pytest.mark.parametrize("kept", [evaluation.KEPT, 0], ids=["kept", "too large"])
def test_the_error_is_that_of_the_whole_network(names: list[str], kept: int) -> None:
    arrays = changed(*names)
    found = Evaluator(MODEL, JUDGE, PART, kept).error(arrays)
    assert found == pytest.approx(expected(arrays), rel=_ROUNDING, abs=1e-9)
    assert (found > 0) == bool(names)


@pytest.mark.parametrize("name", REACHED)
def test_only_what_a_change_reaches_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(MODEL, JUDGE, PART)
    ran = []
    runner = evaluation.Runner
    monkeypatch.setattr(evaluation, "Runner", lambda model, *names: ran.append(model) or runner(model, *names))
    errors = [evaluator.error(changed(name, seed=seed)) for seed in range(3)]
    assert len(set(errors)) == 3
    constant = {"Constant", "Neg"} - ({"Neg"} if name == "b" else set())
    counts = [len([node for node in model.skeleton.graph.node if node.op_type not in constant]) for model in ran]
    assert counts[-3:] == [REACHED[name]] * 3
    assert len(counts) <= 4, "what stands before it is computed once"


def test_another_change_begins_elsewhere() -> None:
    evaluator = Evaluator(MODEL, JUDGE, PART)
    for names in (["w4"], ["w3", "w4"], ["w4"], ["w1"], ["w0"]):
        arrays = changed(*names)
        assert evaluator.error(arrays) == pytest.approx(expected(arrays), rel=_ROUNDING)
