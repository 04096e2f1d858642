"""A model that runs block by block gives what it gives as a whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.verification import blocks, sessions, verify
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import Session, Values
from tests.end_to_end.random_networks.generator import random_network
from tests.end_to_end.random_networks.token_generator import random_token_network
from tests.support.extent import LONG
from tests.support.planted.checks import draw

_RESIZED = (5,)  # by sizes that a block does not know, so that it runs as a whole
TENSOR = helper.make_tensor_value_info


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model run in blocks that read at most one weight of more than one element."""
    monkeypatch.setattr(sessions, "IN_BLOCKS_FROM", 0)
    monkeypatch.setattr(blocks, "BLOCK", 1)
    monkeypatch.setattr(blocks, "_LARGE", 5)


def _whole(model: onnx.ModelProto, optimized: bool, monkeypatch: pytest.MonkeyPatch) -> Session:
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "IN_BLOCKS_FROM", 1 << 60)
        return Session(Source(model), optimized=optimized)


def _same(expected: Values, found: Values) -> None:
    assert list(expected) == list(found)
    for name, value in expected.items():
        scale = np.abs(value.astype(np.float64)).max(initial=1e-9)
        np.testing.assert_allclose(found[name].astype(np.float64), value.astype(np.float64), atol=1e-4 * scale)


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("seed", range(6) if LONG else (0, 1, *_RESIZED))
def test_random_networks(seed: int, optimized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        made = random_network(seed)
        model, feeds = made.model, draw(made.model, 2, made.extents[0])
    else:
        tokens = random_token_network(seed)
        model, feeds = tokens.model, tokens.feeds[0]
    session = Session(Source(model), optimized=optimized)
    found = session.run(feeds)
    assert session.in_blocks or seed in _RESIZED
    _same(_whole(model, optimized, monkeypatch).run(feeds), found)


def _model(nodes: list[onnx.NodeProto], outputs: list[str], overridable: bool = False) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    stored = [numpy_helper.from_array(random.standard_normal((4, 4)).astype(np.float32), name) for name in "abc"]
    inputs = [TENSOR("x", TensorProto.FLOAT, ["n", 4])]
    inputs += [TENSOR(name, TensorProto.FLOAT, [4, 4]) for name in "abc" if overridable]
    declared = [TENSOR(name, TensorProto.FLOAT, ["m", 4]) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, declared, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X = {"x": np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)}


def test_defaults_that_are_fed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [helper.make_node("MatMul", [left, right], [out]) for left, right, out in ("xap", "pbq", "qar")]
    model = _model(nodes, ["q", "r"], overridable=True)
    session, whole = Session(Source(model), optimized=False), _whole(model, False, monkeypatch)
    for feeds in (X, {**X, "a": np.eye(4, dtype=np.float32)}, {**X, "b": np.eye(4, dtype=np.float32)}):
        _same(whole.run(feeds), session.run(feeds))
        _same(whole.run(feeds, ["r"]), session.run(feeds, ["r"]))
    assert session.in_blocks


def test_what_subgraphs_read_from_outside_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def branch(name: str) -> onnx.GraphProto:
        product = helper.make_node("MatMul", ["p", name], [f"{name}_out"])
        return helper.make_graph([product], name, [], [TENSOR(f"{name}_out", TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("MatMul", ["p", "b"], ["q"]),
        helper.make_node("ReduceSum", ["q"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "total"], ["more"]),
        helper.make_node("If", ["more"], ["y"], then_branch=branch("b"), else_branch=branch("c")),
    ]
    model = _model(nodes, ["y"])
    session = Session(Source(model), optimized=False)
    _same(_whole(model, False, monkeypatch).run(X), session.run(X))
    assert session.in_blocks


def test_what_is_no_array_between_blocks_runs_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("SequenceConstruct", ["p", "x"], ["s"]),
        helper.make_node("MatMul", ["x", "b"], ["q"]),
        helper.make_node("ConcatFromSequence", ["s"], ["t"], axis=0),
        helper.make_node("MatMul", ["t", "b"], ["y"]),
    ]
    model = _model(nodes, ["y", "q"])
    session = Session(Source(model), optimized=False)
    _same(_whole(model, False, monkeypatch).run(X), session.run(X))
    assert not session.in_blocks


def test_a_verification_in_blocks_finds_what_is_wrong_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXSQUEEZE_IN_PROCESS", "1")
    nodes = [
        helper.make_node("MatMul", [*reads], [out], name=out) for reads, out in (("xa", "p"), ("pb", "q"), ("qc", "y"))
    ]
    model, wrong = _model(nodes, ["y"]), _model(nodes, ["y"])
    report = verify(model, wrong)
    assert report.passed
    assert any("block by block" in note for note in report.notes)
    value = numpy_helper.to_array(wrong.graph.initializer[1]).copy()
    value[0, 0] += 0.1
    wrong.graph.initializer[1].CopyFrom(numpy_helper.from_array(value, "b"))
    report = verify(model, wrong)
    assert not report.passed
    assert report.first_deviating == "q (MatMul)"
