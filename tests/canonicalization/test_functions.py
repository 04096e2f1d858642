"""Model-local functions: narrowed through their arguments, else put in place, else kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.canonicalization.lowering.functions import functions_of
from tests.support.planted.checks import assert_equal_outputs, minimize, operators, weights

FLOAT, OWN, OPSET = TensorProto.FLOAT, "own.ops", 17
IN, HIDDEN, LEFT, OUT = 6, 16, 10, 3
IMPORTS = [helper.make_opsetid("", OPSET), helper.make_opsetid(OWN, 1)]


def drawn() -> dict[str, Any]:
    """Return the weights of three layers; of the hidden units of the first, six are dead."""
    random = np.random.default_rng(0)
    stored = {"a": random.standard_normal((IN, HIDDEN)), "b": random.standard_normal(HIDDEN)}
    stored |= {"c": random.standard_normal((HIDDEN, HIDDEN)), "d": random.standard_normal(HIDDEN)}
    stored["a"][:, LEFT:], stored["b"][LEFT:] = 0, 0
    stored["last"] = random.standard_normal((HIDDEN, OUT))
    return stored


def function(name: str, inputs: list[str], outputs: list[str], *nodes: onnx.NodeProto, **options: Any) -> Any:
    return helper.make_function(OWN, name, inputs, outputs, list(nodes), options.pop("imports", IMPORTS[:1]), **options)


DENSE = (
    helper.make_node("MatMul", ["X", "W"], ["A"]),
    helper.make_node("Add", ["A", "B"], ["S"]),
    helper.make_node("Relu", ["S"], ["Y"]),
)


def call(name: str, *inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(name, list(inputs), [output], f"call_{output}", domain=OWN, **attributes)


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto], stored: dict[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["N", IN])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", OUT])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=IMPORTS, functions=functions, ir_version=8)
    onnx.checker.check_model(made)
    return made


def assert_recovers(given: onnx.ModelProto, expected: list[tuple[int, ...]]) -> onnx.ModelProto:
    result = sq.minimize(given, round_to=1)
    assert result.report.verification is not None and result.report.verification.passed
    onnx.checker.check_model(result.model)
    assert_equal_outputs(given, result.model, double=False)
    assert len(result.model.SerializeToString()) < len(given.SerializeToString())
    matrices = [shape for shape in weights(result.model) if len(shape) > 1]
    assert sorted(matrices) == sorted(expected), dict(result.report.stayed)
    return result.model


NARROW = [(IN, LEFT), (LEFT, HIDDEN), (HIDDEN, OUT)]
LAST = helper.make_node("MatMul", ["s", "last"], ["y"])


def test_weights_among_the_arguments() -> None:
    """Both calls stay calls, of weights that are narrower."""
    nodes = [call("Dense", "x", "a", "b", output="r"), call("Dense", "r", "c", "d", output="s"), LAST]
    given = model(nodes, [function("Dense", ["X", "W", "B"], ["Y"], *DENSE)], drawn())
    found = assert_recovers(given, NARROW)
    assert operators(found) == operators(given)
    assert found.functions == given.functions


def in_function(name: str) -> onnx.NodeProto:
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.float32(drawn()[name.lower()]), name)
    )


def test_weights_inside() -> None:
    """They are another one's own for each call, so that the nodes of the function stand in the place of a call."""
    nodes = [
        in_function("A"),
        helper.make_node("MatMul", ["X", "A"], ["H"]),
        helper.make_node("Relu", ["H"], ["R"]),
        in_function("C"),
        helper.make_node("MatMul", ["R", "C"], ["Y"]),
    ]
    stored = {"last": drawn()["last"]}
    given = model([call("Net", "x", output="s"), LAST], [function("Net", ["X"], ["Y"], *nodes)], stored)
    found = assert_recovers(given, NARROW)
    assert not found.functions and operators(found)["Net"] == 0


@pytest.mark.parametrize("calls", [2, 5])
def test_weights_inside_that_many_calls_share(calls: int) -> None:
    """A function that is smaller than the nodes of all of its calls stays."""
    square = np.random.default_rng(4).standard_normal((IN, IN)).astype(np.float32)
    square[:, IN - 2 :] = 0
    nodes = [
        helper.make_node("Constant", [], ["A"], value=numpy_helper.from_array(square)),
        helper.make_node("MatMul", ["X", "A"], ["Y"]),
    ]
    names = ["x", *(f"t{index}" for index in range(calls - 1)), "s"]
    chain = [call("Step", before, output=after) for before, after in zip(names, names[1:], strict=False)]
    last = np.random.default_rng(5).standard_normal((IN, OUT))
    given = model([*chain, LAST], [function("Step", ["X"], ["Y"], *nodes)], {"last": last})
    result = sq.minimize(given, round_to=1)
    assert_equal_outputs(given, result.model, double=False)
    assert result.report.weights_before == IN * IN + IN * OUT
    assert result.report.weights_after <= result.report.weights_before
    assert len(result.model.functions) == (result.model.graph.node[0].op_type == "Step")


def test_function_in_a_function() -> None:
    inner = function("Dense", ["X", "W", "B"], ["Y"], *DENSE)
    both = [call("Dense", "X", "P", "Q", output="H"), call("Dense", "H", "R", "S", output="Y")]
    outer = function("Two", ["X", "P", "Q", "R", "S"], ["Y"], *both, imports=IMPORTS)
    nodes = [call("Two", "x", "a", "b", "c", "d", output="s"), LAST]
    given = model(nodes, [inner, outer], drawn())
    found = assert_recovers(given, NARROW)
    assert operators(found) == operators(given)
    assert len(found.functions) == 2


@pytest.mark.parametrize("stated", [False, True])
def test_attributes_by_reference(stated: bool) -> None:
    """The call's own, or what the function says where the call leaves it out."""
    leaky = helper.make_node("LeakyRelu", ["S"], ["Y"])
    leaky.attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope"))
    body = function(
        "Leaky",
        ["X", "W", "B"],
        ["Y"],
        *DENSE[:2],
        leaky,
        attribute_protos=[helper.make_attribute("slope", 0.3)],
    )
    settings = {"slope": 0.7} if stated else {}
    nodes = [call("Leaky", "x", "a", "b", output="r", **settings), call("Leaky", "r", "c", "d", output="s"), LAST]
    assert_recovers(model(nodes, [body], drawn()), NARROW)


def test_bias_that_is_left_out() -> None:
    """A Clip without a lower bound is given none."""
    clip = helper.make_node("Clip", ["A", "L", "U"], ["Y"])
    body = function("Bound", ["X", "W", "U", "L"], ["Y"], DENSE[0], clip)
    stored = drawn() | {"most": np.float32(0.7)}
    nodes = [call("Bound", "x", "a", "most", output="r"), call("Bound", "r", "c", "most", output="s"), LAST]
    given = model(nodes, [body], stored)
    found = assert_recovers(given, NARROW)
    assert operators(found) == operators(given)


def test_names_of_the_function_are_not_those_of_the_graph() -> None:
    """The tensors inside are called as tensors outside."""
    renamed = [
        helper.make_node("MatMul", ["c", "a"], ["last"]),
        helper.make_node("Add", ["last", "d"], ["r"]),
        helper.make_node("Relu", ["r"], ["x"]),
    ]
    nodes = [call("Dense", "x", "a", "b", output="r"), call("Dense", "r", "c", "d", output="s"), LAST]
    assert_recovers(model(nodes, [function("Dense", ["c", "a", "d"], ["x"], *renamed)], drawn()), NARROW)


def test_same_operators_of_another_version() -> None:
    nodes = [call("Dense", "x", "a", "b", output="r"), call("Dense", "r", "c", "d", output="s"), LAST]
    body = function("Dense", ["X", "W", "B"], ["Y"], *DENSE, imports=[helper.make_opsetid("", OPSET - 1)])
    given = model(nodes, [body], drawn())
    assert operators(assert_recovers(given, NARROW)) == operators(given)


def test_other_operators_of_another_version_stay() -> None:
    """The checker refuses them, but for domains that it does not know."""
    body = function("Dense", ["X", "W", "B"], ["Y"], *DENSE, imports=[helper.make_opsetid("", 12)])
    skeleton = onnx.ModelProto(functions=[body], opset_import=IMPORTS)
    assert not functions_of(skeleton)


def test_nothing_leaves_nothing_changes() -> None:
    stored = {name: np.random.default_rng(1).standard_normal(np.shape(value)) for name, value in drawn().items()}
    nodes = [call("Dense", "x", "a", "b", output="r"), call("Dense", "r", "c", "d", output="s"), LAST]
    given = model(nodes, [function("Dense", ["X", "W", "B"], ["Y"], *DENSE)], stored)
    assert minimize(given).model == given
