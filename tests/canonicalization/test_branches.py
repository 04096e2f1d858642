"""An `If` on a constant becomes its branch, a `Loop` of one round its body."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.canonicalization.branches import without_constant_branches
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.model.loading import load, to_proto
from tests.support.planted.checks import assert_equal_outputs, minimize, operators, weights

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
IN, HIDDEN, LEFT, OUT = 6, 8, 5, 3


class Branch:
    """A subgraph with two layers, of whose hidden units three are dead; its names end in a suffix."""

    def __init__(self, suffix: str, seed: int, data: str = "x", form: str = "initializer") -> None:
        random = np.random.default_rng(seed)
        first, last = (random.standard_normal(shape).astype(np.float32) for shape in ((IN, HIDDEN), (HIDDEN, OUT)))
        first[:, LEFT:] = 0
        self.tensors = [numpy_helper.from_array(first, f"w{suffix}"), numpy_helper.from_array(last, f"v{suffix}")]
        self.nodes = []
        if form == "constant":
            self.nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in self.tensors]
            self.tensors = []
        self.nodes += [
            helper.make_node("MatMul", [data, f"w{suffix}"], [f"h{suffix}"]),
            helper.make_node("Relu", [f"h{suffix}"], [f"r{suffix}"]),
            helper.make_node("MatMul", [f"r{suffix}", f"v{suffix}"], [f"o{suffix}"]),
        ]
        self.output = f"o{suffix}"

    def graph(self, *inputs: onnx.ValueInfoProto) -> onnx.GraphProto:
        made = [helper.make_tensor_value_info(self.output, FLOAT, ["N", OUT])]
        return helper.make_graph(self.nodes, "branch", list(inputs), made, self.tensors)


def model(
    nodes: list[onnx.NodeProto], stored: dict[str, Any] | None = None, opset: int = 17, x: list[Any] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, x or ["N", IN])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", OUT])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (stored or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def chosen(condition: str, then: onnx.GraphProto, other: onnx.GraphProto, output: str = "y") -> onnx.NodeProto:
    return helper.make_node("If", [condition], [output], output, then_branch=then, else_branch=other)


def assert_narrowed(given: onnx.ModelProto, copies: int = 1) -> onnx.ModelProto:
    before = given.SerializeToString(deterministic=True)
    result = sq.minimize(given, round_to=1)
    assert given.SerializeToString(deterministic=True) == before
    assert result.report.verification is not None and result.report.verification.passed
    assert len(result.model.SerializeToString()) < len(before)
    onnx.checker.check_model(result.model, full_check=True)
    assert_equal_outputs(given, result.model, double=False)
    assert sorted(weights(result.model)) == sorted([(IN, LEFT), (LEFT, OUT)] * copies)
    assert operators(result.model)["If"] == operators(result.model)["Loop"] == 0
    return result.model


@pytest.mark.parametrize("form", ["initializer", "constant"])
@pytest.mark.parametrize("taken", [True, False])
def test_stored_condition(taken: bool, form: str) -> None:
    """Both branches call their tensors alike, as the checker allows."""
    branches = [Branch("", seed, form=form).graph() for seed in (0, 1)]
    assert_narrowed(model([chosen("c", *branches)], {"c": np.array(taken)}))


def test_condition_on_a_shape() -> None:
    """As scripted modules ask for the rank or the size of what they are given."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["d"]),
        helper.make_node("Equal", ["d", "six"], ["c"]),
        chosen("c", Branch("a", 0).graph(), Branch("b", 1).graph()),
    ]
    assert_narrowed(model(nodes, {"one": np.array(1), "six": np.array(IN)}))


def test_condition_behind_an_earlier_branch() -> None:
    """The second condition is constant once the first is; both branches are called alike."""
    flags = [
        helper.make_graph(
            [helper.make_node("Not", ["c"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.BOOL, [])],
        )
        for name in ("f", "g")
    ]
    nodes = [
        helper.make_node("If", ["c"], ["e"], then_branch=flags[0], else_branch=flags[1]),
        chosen("e", Branch("", 0).graph(), Branch("", 1).graph()),
    ]
    assert_narrowed(model(nodes, {"c": np.array(True)}))


def test_nested() -> None:
    inner = chosen("c", Branch("", 0, "t").graph(), Branch("", 1, "t").graph(), "z")
    outer = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["t"]), inner],
        "outer",
        [],
        [helper.make_tensor_value_info("z", FLOAT, ["N", OUT])],
    )
    other = Branch("", 2).graph()
    assert_narrowed(model([chosen("c", outer, other)], {"c": np.array(True)}))


def test_two_branches_of_equal_names() -> None:
    """One after the other, in one graph: the names of the second are new."""
    nodes = [
        chosen("c", Branch("", 0).graph(), Branch("", 1).graph(), "p"),
        chosen("c", Branch("", 2).graph(), Branch("", 3).graph(), "q"),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    assert_narrowed(model(nodes, {"c": np.array(True)}), copies=2)


def test_branch_that_hands_on_what_is_outside() -> None:
    """Its output is a tensor of the graph around it."""
    layers = Branch("", 0)
    layers.nodes[-1].output[0] = "z"
    same = helper.make_node("Identity", ["z"], ["z_too"])
    empty = helper.make_graph([same], "same", [], [helper.make_tensor_value_info("z_too", FLOAT, ["N", OUT])])
    nodes = [*layers.nodes, chosen("c", empty, Branch("b", 1).graph())]
    given = model(nodes, {"c": np.array(True), **{t.name: numpy_helper.to_array(t) for t in layers.tensors}})
    assert_narrowed(given)


def test_name_inside_that_is_one_outside_later() -> None:
    """The `If` writes what a tensor in its branch is called, and a later node what another one is."""
    branch = Branch("", 0)
    branch.nodes[0].output[0] = branch.nodes[1].input[0] = "y"
    branch.nodes[1].output[0] = branch.nodes[2].input[0] = "late"
    nodes = [chosen("c", branch.graph(), Branch("b", 1).graph(), "p")]
    nodes += [helper.make_node("Neg", ["p"], ["late"]), helper.make_node("Neg", ["late"], ["y"])]
    assert_narrowed(model(nodes, {"c": np.array(True)}))


def test_condition_of_a_caller_stays() -> None:
    """One that is known only at run time, here by the size of the batch."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Greater", ["s", "one"], ["c"]),
        chosen("c", Branch("a", 0).graph(), Branch("b", 1).graph()),
    ]
    given = model(nodes, {"one": np.array([1])})
    assert without_constant_branches(load(given)).skeleton is not None
    assert operators(minimize(given, narrowing=False).model)["If"] == 1


def test_condition_that_a_caller_may_replace_stays() -> None:
    given = model([chosen("c", Branch("a", 0).graph(), Branch("b", 1).graph())], {"c": np.array(True)})
    given.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    loaded = load(given)
    assert without_constant_branches(loaded) is loaded


def test_nothing_leaves_nothing_changes() -> None:
    branches = [Branch(suffix, 0) for suffix in "ab"]
    full = np.random.default_rng(5).standard_normal((IN, HIDDEN)).astype(np.float32)
    for branch in branches:
        branch.tensors[0].CopyFrom(numpy_helper.from_array(full, branch.tensors[0].name))
    given = model([chosen("c", *(branch.graph() for branch in branches))], {"c": np.array(True)})
    assert minimize(given).model == given


# -- loops ------------------------------------------------------------------------------------------------------------


def loop(trips: int, goes: bool | None, opset: int, collects: bool) -> onnx.ModelProto:
    """A loop whose body holds two layers; it carries their sum, or collects it."""
    body = Branch("", 0, "state" if not collects else "x")
    nodes = [*body.nodes, helper.make_node("Cast", ["round"], ["index"], to=FLOAT)]
    nodes.append(helper.make_node("Add", ["o", "index"], ["moved"]))
    nodes.append(helper.make_node("Identity", ["goes"], ["goes_on"]))
    made = [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])]
    if not collects:
        nodes.append(helper.make_node("Concat", ["moved", "moved"], ["next"], axis=1))
        made.append(helper.make_tensor_value_info("next", FLOAT, ["N", IN]))
    else:
        made.append(helper.make_tensor_value_info("moved", FLOAT, ["N", OUT]))
    given = [
        helper.make_tensor_value_info("round", INT64, []),
        helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
    ]
    given += [] if collects else [helper.make_tensor_value_info("state", FLOAT, ["N", IN])]
    inside = helper.make_graph(nodes, "body", given, made, body.tensors)
    inputs = ["trips", "" if goes is None else "start", *([] if collects else ["x"])]
    outside = [helper.make_node("Loop", inputs, ["last"], body=inside)]
    stored: dict[str, Any] = {"trips": np.array(trips), "start": np.array(bool(goes)), "zero": np.array([0])}
    stored |= {"begin": np.array([0]), "end": np.array([OUT]), "axis": np.array([1])}
    if collects:
        outside.append(helper.make_node("ReduceMean", ["last"], ["y"], axes=[0], keepdims=0))
    else:
        outside.append(helper.make_node("Slice", ["last", "begin", "end", "axis"], ["y"]))
    return model(outside, stored, opset)


@pytest.mark.parametrize("collects", [False, True])
@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("goes", [None, True])
def test_loop_of_one_round(goes: bool | None, opset: int, collects: bool) -> None:
    assert_narrowed(loop(1, goes, opset, collects))


@pytest.mark.parametrize(("trips", "goes"), [(2, True), (0, True), (1, False)])
def test_other_loops_stay(trips: int, goes: bool) -> None:
    loaded = load(loop(trips, goes, 17, collects=False))
    assert without_constant_branches(loaded) is loaded


def test_live_branches_are_said() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Greater", ["s", "one"], ["c"]),
        chosen("c", Branch("a", 0, "h").graph(), Branch("b", 1, "h").graph()),
    ]
    weight = np.random.default_rng(7).standard_normal((IN, IN)).astype(np.float32)
    weight[:, 2] = 0
    given = model(nodes, {"one": np.array([1]), "w": weight})
    assert any(Reason.SUBGRAPH.value in reason for reason in minimize(given, narrowing=False).report.stayed)


def test_what_is_made_is_valid() -> None:
    """Nested branches, names that clash, and what is declared inside."""
    branch = Branch("", 0)
    graph = branch.graph()
    graph.value_info.append(helper.make_tensor_value_info("h", FLOAT, ["N", HIDDEN]))
    given = model(
        [
            chosen("c", graph, Branch("", 1).graph(), "p"),
            chosen("c", graph, Branch("", 1).graph(), "q"),
            helper.make_node("Add", ["p", "q"], ["y"]),
        ],
        {"c": np.array(True)},
    )
    made = to_proto(without_constant_branches(load(given)))
    onnx.checker.check_model(made, full_check=True)
    names = {value.name for value in made.graph.value_info}
    assert len(names) == 2 and names <= {name for node in made.graph.node for name in node.output}


# -- conditions known only at run time, of which one outcome alone survives -------------------------------------------


def squeezed(reader: str = "Gemm", needed: bool = True) -> onnx.ModelProto:
    """`layer(x.squeeze(-1))` as scripted modules write it: an `If` on the last size, whose branches differ in rank."""
    random = np.random.default_rng(3)
    first, last = (random.standard_normal(shape).astype(np.float32) for shape in ((HIDDEN, IN, 1), (HIDDEN, OUT)))
    first[LEFT:] = 0
    branches = [
        helper.make_graph(
            [helper.make_node(op, inputs, [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, None)]
        )
        for op, inputs, name in (("Squeeze", ["h", "last"], "s"), ("Identity", ["h"], "i"))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["h"]),
        helper.make_node("Shape", ["h"], ["size"], start=2),
        helper.make_node("Equal", ["size", "one"], ["c"]),
        chosen("c", branches[0], branches[1], "r"),
        helper.make_node(reader, ["r", "v"], ["y" if needed else "unused"]),
    ]
    if not needed:
        nodes.append(helper.make_node("MatMul", ["r", "v"], ["y"]))
    last = last if reader != "Conv" else last.reshape(HIDDEN, OUT, 1, 1)
    stored = {"first": first, "v": last, "last": np.array([2]), "one": np.array([1])}
    return model(nodes, stored, x=["N", IN, "T"])


@pytest.mark.parametrize("swapped", [False, True])
def test_the_rank_that_a_reader_refuses(swapped: bool) -> None:
    """A Gemm takes no batch of matrices: every run that ends well has taken the Squeeze."""
    given = squeezed()
    if swapped:
        then, other = given.graph.node[3].attribute
        then.name, other.name = other.name, then.name
        given.graph.node[2].op_type = "Greater"
    result = sq.minimize(given, round_to=1, input_shapes={"x": (2, IN, 1)})
    assert weights(result.model) == [(LEFT, OUT), (LEFT, IN, 1)] and operators(result.model)["If"] == 0
    onnx.checker.check_model(result.model, full_check=True)
    assert_equal_outputs(given, result.model, extents=(1, 1), double=False)


@pytest.mark.parametrize(("reader", "needed"), [("MatMul", True), ("Conv", True), ("Gemm", False)])
def test_conditions_that_nobody_decides_stay(reader: str, needed: bool) -> None:
    """Both ranks survive, or neither does; or what refuses one is not needed, so that runtimes leave it out."""
    loaded = load(squeezed(reader, needed))
    assert without_constant_branches(loaded) is loaded
