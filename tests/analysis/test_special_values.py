"""Infinities and NaN that a file stores, or looks for: 0 times one of them is not 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from onnxsqueeze.abstract.interval import constant_interval
from onnxsqueeze.abstract.specials import GAPS, NEGATIVE, specials_of
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.registry import rule_for
from tests.support.planted.checks import Array, minimize, run, size

UNITS, BAD = 6, 2
node = helper.make_node


def network(
    nodes: Sequence[NodeProto], stored: Mapping[str, Array], x: Sequence[str | int] = ("N", 5), rank: int = 0
) -> ModelProto:
    """Return a network from ``x`` to ``y``."""
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (rank or len(x)))]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(list(nodes), "g", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def drawn(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def assert_the_same(model: ModelProto, *shape: int) -> ModelProto:
    """Assert that a minimized network says the same, special values at the same places; return it."""
    result = minimize(model).model
    for seed in (0, 1):
        feeds = {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
        for optimized in (False, True):
            expected, actual = run(model, feeds, optimized)[0], run(result, feeds, optimized)[0]
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    return result


GUARD = [
    node("IsNaN", ["t"], ["lost"]),
    node("Where", ["lost", "half", "t"], ["g"]),
    node("MatMul", ["g", "w3"], ["y"]),
]
"""A network's own guard: what is NaN becomes a half."""


def guarded(nodes: Sequence[NodeProto], stored: Mapping[str, Array]) -> ModelProto:
    """Return a layer, a vector with a NaN on it, some nodes that make ``t`` of that, and the guard."""
    vector = drawn(UNITS)
    vector[BAD] = np.nan
    head = [node("MatMul", ["x", "w1"], ["h"]), node("Add", ["h", "v"], ["s"])]
    tensors = {"w1": drawn(5, UNITS), "v": vector, "half": np.float32(0.5), "w3": drawn(UNITS, 3), **stored}
    return network([*head, *nodes, *GUARD], tensors)


def without(units: Sequence[int], *shape: int) -> Array:
    """Return a weight with zeros in some columns."""
    array = drawn(*shape)
    array[:, list(units)] = 0
    return array


def unread() -> Array:
    """Return a weight that does not read the unit with the NaN."""
    array = drawn(UNITS, UNITS)
    array[BAD] = 0
    return array


READERS: dict[str, tuple[list[NodeProto], dict[str, Array]]] = {
    "a unit of zeros": ([node("MatMul", ["s", "w2"], ["t"])], {"w2": without([1, 4], UNITS, UNITS)}),
    "an input of zeros": ([node("MatMul", ["s", "w2"], ["t"])], {"w2": unread()}),
    "Gemm": ([node("Gemm", ["s", "w2", "b"], ["t"])], {"w2": without([1, 4], UNITS, UNITS), "b": drawn(UNITS)}),
    "a product with zeros": ([node("Mul", ["s", "f"], ["t"])], {"f": np.where(np.arange(UNITS) > 3, 1, 0).astype("f")}),
    "a product with a dead layer": (
        [node("MatMul", ["x", "w2"], ["z"]), node("Mul", ["s", "z"], ["t"])],
        {"w2": without([BAD, 4], 5, UNITS)},
    ),
    "infinity over a dead layer": (
        [node("MatMul", ["x", "w2"], ["z"]), node("Div", ["z", "s"], ["t"])],
        {"w2": without([BAD, 4], 5, UNITS)},
    ),
    "Clip": (
        [node("Clip", ["s", "low", "high"], ["c"]), node("MatMul", ["c", "w2"], ["t"])],
        {"low": np.float32(-1), "high": np.float32(1), "w2": without([1, 4], UNITS, UNITS)},
    ),
    "a choice by position": (
        [node("Where", ["m", "s", "f"], ["c"]), node("MatMul", ["c", "w2"], ["t"])],
        {"m": np.arange(UNITS) < 4, "f": np.float32(0.25), "w2": without([1, 4], UNITS, UNITS)},
    ),
    "rows and columns moved": (
        [
            node("Transpose", ["s"], ["c"], perm=[1, 0]),
            node("Gather", ["c", "i"], ["d"], axis=0),
            node("Transpose", ["d"], ["e"], perm=[1, 0]),
            node("MatMul", ["e", "w2"], ["t"]),
        ],
        {"i": np.array([5, 2, 3, 0, 1, 4]), "w2": without([1, 4], UNITS, UNITS)},
    ),
    "a norm": (
        [node("LayerNormalization", ["s", "scale", "shift"], ["t"])],
        {"scale": (np.arange(UNITS) > 2).astype(np.float32), "shift": drawn(UNITS)},
    ),
    "GRU": (
        [
            node("Unsqueeze", ["s", "first"], ["c"]),
            node("GRU", ["c", "wi", "wr"], ["d", ""], hidden_size=UNITS),
            node("Squeeze", ["d", "ends"], ["t"]),
        ],
        {
            "first": np.array([0]),
            "ends": np.array([0, 1]),
            "wi": np.zeros((1, 3 * UNITS, UNITS), np.float32),
            "wr": np.zeros((1, 3 * UNITS, UNITS), np.float32),
        },
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_zeros_that_meet_a_stored_nan(reader: str) -> None:
    nodes, stored = READERS[reader]
    assert_the_same(guarded(nodes, stored), 4, 5)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("reader", READERS)
def test_zeros_that_meet_a_stored_infinity(reader: str, bad: float) -> None:
    nodes, stored = READERS[reader]
    model = guarded(nodes, stored)
    for tensor in model.graph.initializer:
        if tensor.name == "v":
            vector = numpy_helper.to_array(tensor).copy()
            vector[BAD] = bad
            tensor.CopyFrom(numpy_helper.from_array(vector, "v"))
    assert_the_same(model, 4, 5)


@pytest.mark.parametrize("channels", [UNITS, 1])
def test_convolutions_of_zeros_that_meet_a_stored_nan(channels: int) -> None:
    groups = UNITS // channels
    weight = drawn(UNITS, channels, 3, 3)
    weight[[1, 4]] = 0
    vector = drawn(1, UNITS, 1, 1)
    vector[0, BAD] = np.nan
    nodes = [
        node("Conv", ["x", "w1"], ["h"]),
        node("Add", ["h", "v"], ["s"]),
        node("Conv", ["s", "w2", "b"], ["t"], pads=[1, 1, 1, 1], group=groups),
        *GUARD[:2],
        node("ReduceMean", ["g"], ["p"], axes=[2, 3], keepdims=0),
        node("MatMul", ["p", "w3"], ["y"]),
    ]
    stored = {"w1": drawn(UNITS, 3, 1, 1), "v": vector, "w2": weight, "b": drawn(UNITS)}
    model = network(nodes, {**stored, "half": np.float32(0.5), "w3": drawn(UNITS, 3)}, ("N", 3, 5, 5), rank=2)
    assert_the_same(model, 2, 3, 5, 5)


def test_keys_of_zeros_that_meet_a_query_of_nan() -> None:
    """The scores are NaN, which the softmax's own guard turns into 0."""
    vector = drawn(4)
    vector[1] = np.nan
    nodes = [
        node("MatMul", ["x", "wq"], ["q0"]),
        node("Add", ["q0", "v"], ["q"]),
        node("MatMul", ["x", "wk"], ["k"]),
        node("MatMul", ["x", "wv"], ["u"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("IsNaN", ["p"], ["lost"]),
        node("Where", ["lost", "zero", "p"], ["g"]),
        node("MatMul", ["g", "u"], ["o"]),
        node("MatMul", ["o", "wo"], ["y"]),
    ]
    stored = {"wq": drawn(5, 4), "v": vector, "wk": np.zeros((5, 4), np.float32), "wv": drawn(5, 4)}
    model = network(nodes, {**stored, "wo": drawn(4, 3), "zero": np.float32(0)}, ("N", 7, 5))
    assert_the_same(model, 2, 7, 5)


TABLE = np.arange(30, dtype=np.float32).reshape(5, UNITS) / 30
TABLE[3, BAD] = np.nan


def test_a_table_with_a_nan() -> None:
    """Which row is read depends on the data: one of them meets zeros."""
    nodes = [
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        node("Gather", ["table", "i"], ["s"]),
        node("MatMul", ["s", "w2"], ["t"]),
        *GUARD,
    ]
    stored = {"table": TABLE, "w2": unread(), "half": np.float32(0.5), "w3": drawn(UNITS, 3)}
    assert_the_same(network(nodes, stored), 9, 5)


MAKERS: dict[str, tuple[list[NodeProto], dict[str, Array]]] = {
    "Log": ([node("Log", ["h"], ["s"])], {}),
    "Sqrt": ([node("Sqrt", ["h"], ["s"])], {}),
    "0 over 0": ([node("Relu", ["h"], ["r"]), node("Div", ["r", "r"], ["s"])], {}),
    "Pow": ([node("Pow", ["h", "e"], ["s"])], {"e": np.float32(0.5)}),
    "Reciprocal of 0": ([node("Relu", ["h"], ["r"]), node("Reciprocal", ["r"], ["s"])], {}),
    "a mask of all": (
        [node("Less", ["h", "e"], ["m"]), node("Where", ["m", "low", "h"], ["r"]), node("Softmax", ["r"], ["s"])],
        {"e": np.float32(9), "low": np.float32(-np.inf)},
    ),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_nan_that_a_network_makes_and_looks_for(maker: str) -> None:
    nodes, stored = MAKERS[maker]
    model = guarded([], {**stored, "w2": without([1, 4], UNITS, UNITS)})
    del model.graph.node[:]
    model.graph.node.extend([node("MatMul", ["x", "w1"], ["h"]), *nodes, node("MatMul", ["s", "w2"], ["t"]), *GUARD])
    assert_the_same(model, 4, 5)


@pytest.mark.parametrize("maker", MAKERS)
def test_what_nobody_looks_for_counts_as_finite(maker: str) -> None:
    """Data outside of what a network was made for costs no channel of it."""
    nodes, stored = MAKERS[maker]
    tensors = {"w1": drawn(5, UNITS), "w2": without([1, 4], UNITS, UNITS), "w3": drawn(UNITS, 3), **stored}
    model = network(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            *nodes,
            node("MatMul", ["s", "w2"], ["t"]),
            node("MatMul", ["t", "w3"], ["y"]),
        ],
        tensors,
    )
    assert size(minimize(model).model) == size(model) - 2 * (UNITS + 3)


@pytest.mark.parametrize("test", ["IsNaN", "itself", "not itself"])
def test_a_guard_makes_what_it_guards_finite(test: str) -> None:
    tests = {
        "IsNaN": [node("IsNaN", ["s"], ["n"]), node("Where", ["n", "half", "s"], ["g"])],
        "itself": [node("Equal", ["s", "s"], ["n"]), node("Where", ["n", "s", "half"], ["g"])],
        "not itself": [
            node("Equal", ["s", "s"], ["e"]),
            node("Not", ["e"], ["n"]),
            node("IsInf", ["s"], ["i"]),
            node("Or", ["n", "i"], ["o"]),
            node("Where", ["o", "half", "s"], ["g"]),
        ],
    }
    vector = drawn(UNITS)
    vector[BAD] = np.nan
    stored = {"w1": drawn(5, UNITS), "v": vector, "half": np.float32(0.5), "w2": without([1, 4], UNITS, UNITS)}
    nodes = [node("MatMul", ["x", "w1"], ["h"]), node("Add", ["h", "v"], ["s"]), *tests[test]]
    nodes += [node("MatMul", ["g", "w2"], ["t"]), node("MatMul", ["t", "w3"], ["y"])]
    model = network(nodes, {**stored, "w3": drawn(UNITS, 3)})
    result = assert_the_same(model, 4, 5)
    assert size(result) <= size(model) - 2 * (UNITS + 3)


def test_a_border_of_minus_infinity_costs_nothing() -> None:
    """As exporters pad in front of a maximum."""
    weight = drawn(UNITS, UNITS, 1, 1)
    weight[[1, 4]] = 0
    nodes = [
        node("Conv", ["x", "w1"], ["h"]),
        node("Pad", ["h", "pads", "low"], ["s"]),
        node("MaxPool", ["s"], ["p"], kernel_shape=[3, 3]),
        node("Conv", ["p", "w2"], ["t"]),
        node("Conv", ["t", "w3"], ["y"]),
    ]
    stored = {"w1": drawn(UNITS, 3, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "low": np.float32(-np.inf)}
    model = network(nodes, {**stored, "w2": weight, "w3": drawn(3, UNITS, 1, 1)}, ("N", 3, 6, 6))
    assert size(assert_the_same(model, 2, 3, 6, 6)) == size(model) - 2 * (UNITS + 3)


_ENDS = st.sampled_from([-np.inf, np.inf, np.nan, 0.0, -1.0, 2.0, 0.5, -0.5])
OPERATORS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow"), 2),
    **dict.fromkeys(("Sum", "Mean", "Where", "Clip"), 3),
    **dict.fromkeys(("Relu", "Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Neg", "Abs", "Softplus"), 1),
    **dict.fromkeys(("Acosh", "Asin", "Atanh", "Elu", "Selu", "LeakyRelu", "HardSigmoid", "Sin", "Erf", "Floor"), 1),
}


def _lone(op: str) -> tuple[Node, object]:
    names = ["a", "b", "c"][: OPERATORS[op]]
    kinds = [TensorProto.BOOL if op == "Where" and name == "a" else TensorProto.FLOAT for name in names]
    sizes = [[] if op == "Clip" and name != "a" else [4] for name in names]
    given = [helper.make_tensor_value_info(*each) for each in zip(names, kinds, sizes, strict=True)]
    graph = helper.make_graph(
        [node(op, names, ["y"])], "g", given, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    )
    analysis = analyse(load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))
    return analysis.graph.nodes[0], analysis.context


@pytest.mark.parametrize("op", OPERATORS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_nothing_special_is_overlooked(op: str, data: st.DataObject) -> None:
    """Whatever constants an operator reads: where onnxruntime makes infinities or NaN of them, a flag says so."""
    lone, context = _lone(op)
    feeds = {}
    for name in lone.inputs:
        shape = [int(size) for size in context.shape(name)]  # type: ignore[attr-defined]
        drawn = np.array([data.draw(_ENDS) for _ in range(int(np.prod(shape)))], np.float32).reshape(shape)
        feeds[name] = drawn > 0 if op == "Where" and name == "a" else drawn
        context.intervals[name] = constant_interval(feeds[name])  # type: ignore[attr-defined]
        context.specials[name] = specials_of(feeds[name])  # type: ignore[attr-defined]
    context.tested = frozenset({0})  # type: ignore[attr-defined]
    rule = rule_for(lone)
    assert rule.specials is not None
    (found,) = rule.specials(lone, context)  # type: ignore[arg-type]
    graph = helper.make_graph(
        [helper.make_node(op, list(feeds), ["y"])],
        "g",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = specials_of(run(model, feeds, optimized=False)[0])
    flags = np.zeros(4, np.uint8) if found is None else np.broadcast_to(found, (4,))
    flags = np.where(flags & GAPS, flags | NEGATIVE, flags)
    assert made is None or (np.broadcast_to(made, (4,)) & ~flags == 0).all()


BRANCH = """t = If (c) <
    then_branch = then () => (float[n,6] a) {{ {then} }},
    else_branch = other () => (float[n,6] b) {{ b = Tanh(s) }} >"""


@pytest.mark.parametrize(
    ("then", "behind"),
    [
        ("q = MatMul(s, w0) a = MatMul(q, w2)", "u = Identity(t)"),
        ("f = Constant <value = float[6] {1, 1, nan, 1, 1, 1}> () a = Add(h, f)", "u = MatMul(t, w2)"),
    ],
    ids=["captured", "stored inside"],
)
def test_branches_read_and_make_what_is_not_finite(then: str, behind: str) -> None:
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> net
        (float[n,5] x, bool c) => (float[n,3] y) {{
        h = MatMul(x, w1) s = Add(h, v) {BRANCH.format(then=then)} {behind}
        lost = IsNaN(u) g = Where(lost, half, u) y = MatMul(g, w3) }}""")
    vector = drawn(UNITS)
    vector[BAD] = np.nan
    weight = without([1, 4], UNITS, UNITS)
    stored = {"w1": drawn(5, UNITS), "v": vector, "w2": weight, "half": np.float32(0.5), "w3": drawn(UNITS, 3)}
    stored["w0"] = np.zeros((UNITS, UNITS), np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items())
    result = minimize(model).model
    for condition in (True, False):
        feeds = {"x": drawn(4, 5), "c": np.array(condition)}
        np.testing.assert_allclose(run(result, feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-5)
