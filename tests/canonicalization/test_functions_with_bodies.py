"""Model-local functions that hold graphs: their nodes stand in the place of calls, and what they hold is minimized."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from tests.support.planted.checks import deviation, run, weights

FLOAT, OWN = TensorProto.FLOAT, "own.ops"
WIDTH, HIDDEN = 4, 32
IMPORTS = [helper.make_opsetid("", 17), helper.make_opsetid(OWN, 1)]


def info(name: str, kind: int = FLOAT, shape: Any = ("N", WIDTH)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def layers(live: int, seed: int, data: str = "X") -> list[onnx.NodeProto]:
    """Return two layers whose weights are Constants, with so many hidden units that are not dead."""
    random = np.random.default_rng(seed)
    first, last = random.standard_normal((WIDTH, HIDDEN)), random.standard_normal((HIDDEN, WIDTH))
    first[:, random.permutation(HIDDEN)[live:]] = 0
    stored = [numpy_helper.from_array(value.astype(np.float32) / 4, "v") for value in (first, last)]
    return [
        helper.make_node("Constant", [], ["W"], value=stored[0]),
        helper.make_node("Constant", [], ["V"], value=stored[1]),
        helper.make_node("MatMul", [data, "W"], ["H"]),
        helper.make_node("Relu", ["H"], ["R"]),
        helper.make_node("MatMul", ["R", "V"], ["O"]),
    ]


def branch(*nodes: onnx.NodeProto, output: str = "O") -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [info(output)])


def function(name: str, inputs: list[str], *nodes: onnx.NodeProto, **options: Any) -> onnx.FunctionProto:
    return helper.make_function(OWN, name, inputs, ["Y"], list(nodes), options.pop("imports", IMPORTS[:1]), **options)


def chosen(then: onnx.GraphProto, other: onnx.GraphProto, condition: str = "C") -> onnx.NodeProto:
    return helper.make_node("If", [condition], ["Y"], then_branch=then, else_branch=other)


def model(functions: list[onnx.FunctionProto], *nodes: onnx.NodeProto, **stored: Any) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    inputs = [info("x"), info("c", TensorProto.BOOL, ())]
    graph = helper.make_graph(list(nodes), "graph", inputs, [info("y")], tensors)
    made = helper.make_model(graph, opset_imports=IMPORTS, functions=functions, ir_version=8)
    onnx.checker.check_model(made)
    return made


def call(name: str, *inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(name, list(inputs), [output], f"call_{output}", domain=OWN, **attributes)


def minimized(given: onnx.ModelProto) -> onnx.ModelProto:
    """Minimize, and compare both for each choice; what is written is never longer."""
    result = sq.minimize(given, round_to=1).model
    onnx.checker.check_model(result, full_check=True)
    assert result.ByteSize() <= given.ByteSize()
    for condition in (True, False):
        x = np.random.default_rng(3).standard_normal((3, WIDTH)).astype(np.float32)
        feeds = {"x": x, "c": np.array(condition)}
        for optimized in (False, True):
            assert deviation(run(given, feeds, optimized), run(result, feeds, optimized)) <= 2e-5
    return result


def matrices(proto: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all matrices in Constant nodes of a graph and of those inside."""
    found = []
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.name == "value" and len(attribute.t.dims) == 2:
                found.append(tuple(attribute.t.dims))
            if attribute.type == AttributeProto.GRAPH:
                found += matrices(attribute.g)
    return found + [tuple(tensor.dims) for tensor in proto.initializer if len(tensor.dims) == 2]


def pairs(*live: int) -> list[tuple[int, int]]:
    return sorted([(WIDTH, count) for count in live] + [(count, WIDTH) for count in live])


def test_both_branches_narrow() -> None:
    """Each by itself."""
    body = function("Net", ["X", "C"], chosen(branch(*layers(10, 0)), branch(*layers(20, 1))))
    result = minimized(model([body], call("Net", "x", "c")))
    assert sorted(matrices(result.graph)) == pairs(10, 20)
    assert not result.functions


def test_beside_what_leaves_outside() -> None:
    random = np.random.default_rng(5)
    first, last = random.standard_normal((WIDTH, HIDDEN)), random.standard_normal((HIDDEN, WIDTH))
    first[:, 12:] = 0
    body = function("Net", ["X", "C"], chosen(branch(*layers(10, 0)), branch(*layers(20, 1))))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["o"]),
        call("Net", "o", "c"),
    ]
    given = model([body], *nodes, w=first.astype(np.float32), v=last.astype(np.float32))
    assert sorted(matrices(minimized(given).graph)) == pairs(10, 12, 20)


def test_a_constant_condition() -> None:
    """Of the function's own: its branch stands in the place of the call."""
    condition = helper.make_node("Constant", [], ["K"], value=numpy_helper.from_array(np.array(False)))
    body = function("Net", ["X"], condition, chosen(branch(*layers(10, 0)), branch(*layers(20, 1)), "K"))
    result = minimized(model([body], call("Net", "x")))
    assert sorted(weights(result)) == pairs(20)
    assert [node.op_type for node in result.graph.node if node.op_type != "Constant"] == ["MatMul", "Relu", "MatMul"]


def test_functions_that_call_them() -> None:
    inner = function("Net", ["X", "C"], chosen(branch(*layers(10, 0)), branch(*layers(20, 1))))
    outer = function("Outer", ["X", "C"], call("Net", "X", "C", output="Y"), imports=IMPORTS)
    result = minimized(model([inner, outer], call("Outer", "x", "c")))
    assert sorted(matrices(result.graph)) == pairs(10, 20)


def test_attributes_by_reference_inside() -> None:
    """Of the call, and what the function says where the call leaves it out."""
    leaky = helper.make_node("LeakyRelu", ["O"], ["Z"])
    leaky.attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope"))
    both = [branch(*layers(live, seed), leaky, output="Z") for live, seed in ((10, 0), (20, 1))]
    body = function("Net", ["X", "C"], chosen(*both), attribute_protos=[helper.make_attribute("slope", 0.3)])
    stated = model([body], call("Net", "x", "c", slope=0.7))
    assert sorted(matrices(minimized(stated).graph)) == pairs(10, 20)
    assert sorted(matrices(minimized(model([body], call("Net", "x", "c"))).graph)) == pairs(10, 20)


@pytest.mark.parametrize("calls", [2, 3])
def test_many_calls(calls: int) -> None:
    """Names are not defined twice; a function that is smaller than the nodes of all calls stays."""
    body = function("Net", ["X", "C"], chosen(branch(*layers(10, 0)), branch(*layers(20, 1))))
    names = ["x", *(f"t{index}" for index in range(calls - 1)), "y"]
    chain = [call("Net", before, "c", output=after) for before, after in zip(names, names[1:], strict=False)]
    given = model([body], *chain)
    assert minimized(given) == given


def test_many_calls_of_little() -> None:
    """A function without weights that is called twice in a large model; it captures what comes in and what it makes."""
    random = np.random.default_rng(5)
    ends = [random.standard_normal(shape).astype(np.float32) for shape in ((WIDTH, 200), (200, WIDTH)) * 2]
    for first in ends[::2]:
        first[:, 150:] = 0
    captures = [
        branch(helper.make_node(op, ["X", "S"], [op]), output=op) for op in ("Add", "Mul")
    ]  # "S" is made by the function
    body = function("Mix", ["X", "C"], helper.make_node("Tanh", ["X"], ["S"]), chosen(*captures))
    nodes, last = [], "x"
    for index in range(2):
        nodes += [
            helper.make_node("MatMul", [last, f"w{2 * index}"], [f"h{index}"]),
            helper.make_node("Relu", [f"h{index}"], [f"r{index}"]),
            helper.make_node("MatMul", [f"r{index}", f"w{2 * index + 1}"], [f"o{index}"]),
            call("Mix", f"o{index}", "c", output="y" if index else "m"),
        ]
        last = "m"
    given = model([body], *nodes, **{f"w{index}": value for index, value in enumerate(ends)})
    result = minimized(given)
    assert sorted(matrices(result.graph)) == sorted([(WIDTH, 150), (150, WIDTH)] * 2)


def test_a_loop() -> None:
    """Its body adds up what two layers make, in each of three rounds."""
    nodes = [
        *layers(10, 0, "s_in"),
        helper.make_node("Add", ["s_in", "O"], ["s_out"]),
        helper.make_node("Identity", ["go_in"], ["go_out"]),
    ]
    inputs = [info("i", TensorProto.INT64, ()), info("go_in", TensorProto.BOOL, ()), info("s_in")]
    body = helper.make_graph(nodes, "body", inputs, [info("go_out", TensorProto.BOOL, ()), info("s_out")])
    rounds = helper.make_node("Constant", [], ["M"], value=numpy_helper.from_array(np.array(3)))
    net = function("Net", ["X"], rounds, helper.make_node("Loop", ["M", "", "X"], ["Y"], body=body))
    assert sorted(matrices(minimized(model([net], call("Net", "x"))).graph)) == pairs(10)


def test_nothing_leaves() -> None:
    """The model is as it was."""
    body = function("Net", ["X", "C"], chosen(branch(*layers(HIDDEN, 0)), branch(*layers(HIDDEN, 1))))
    given = model([body], call("Net", "x", "c"))
    assert minimized(given) == given
