"""What bodies of control flow and functions select is judged like everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxsqueeze.verification import verify
from tests.verification.networks import INT64, changed, network, node, nudged, tensor

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
CLASSES = 24


def declared(name: str, kind: int, rank: int = 0) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None] * rank)


def scored(nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], **more: Any) -> onnx.ModelProto:
    """Return a network with nodes behind its scores "l" [N, classes], of which each stands there twice."""
    random = np.random.default_rng(0)
    arrays = {"w1": random.standard_normal((8, 16)) / 3, "b1": random.standard_normal(16), "b2": np.zeros(CLASSES)}
    arrays["w2"] = np.tile(random.standard_normal((16, CLASSES // 2)) / 4, 2)
    layers = [node("Gemm", "x w1 b1", "a"), node("Relu", "a", "q"), node("Gemm", "q w2 b2", "l")]
    typed = {name: array.astype(np.float32) for name, array in arrays.items()}
    return network([*layers, *nodes], [tensor("x", "N", 8)], outputs, {**typed, "k": np.array([5]), **more})


def top(prefix: str, scores: str = "l") -> onnx.NodeProto:
    return node("TopK", f"{scores} k", f"{prefix}v {prefix}i", axis=1)


def branch(prefix: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    found = [declared(f"{prefix}v", FLOAT, 2), declared(f"{prefix}i", INT64, 2)]
    return helper.make_graph([*nodes, top(prefix)] if not nodes else list(nodes), prefix, [], found)


def conditional(condition: str, name: str = "v i") -> onnx.NodeProto:
    """Return an If that takes the best in one branch and the worst in the other."""
    worst = branch("e", node("TopK", "l k", "ev ei", axis=1, largest=0))
    return node("If", condition, name, then_branch=branch("t"), else_branch=worst)


ENDS = [tensor("v", "N", None), tensor("i", "N", None, elem_type=INT64)]


def in_a_branch() -> onnx.ModelProto:
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s far", "c"), conditional("c")]
    return scored(nodes, ENDS, far=np.float32(-1e9))


def looped(nodes: list[onnx.NodeProto], **stored: np.ndarray) -> onnx.ModelProto:
    """Return scores that a Loop carries on, as what ``nodes`` make of its state, and what is selected on the way."""
    body = helper.make_graph(
        nodes,
        "body",
        [declared("number", INT64), declared("going", BOOL), declared("state", FLOAT, 2)],
        [declared("goes_on", BOOL), declared("next", FLOAT, 2), declared("bi", INT64, 2)],
    )
    ends = [tensor("v", "N", None), tensor("i", None, "N", None, elem_type=INT64)]
    return scored([node("Loop", "most - l", "v i", body=body)], ends, **stored)


def in_a_loop() -> onnx.ModelProto:
    """Scores rise with each iteration by what was selected."""
    nodes = [
        node("Identity", "going", "goes_on"),
        top("b", "state"),
        node("ReduceMean", "bv", "m", axes=[1]),
        node("Mul", "m step", "by"),
        node("Add", "state by", "next"),
    ]
    return looped(nodes, step=np.full((1, CLASSES), 0.1, np.float32), most=np.array(3))


def in_a_branch_in_a_loop() -> onnx.ModelProto:
    """The second iteration takes the other branch, whose outcome is carried on."""
    nodes = [
        node("Identity", "going", "goes_on"),
        node("Cast", "number", "f", to=FLOAT),
        node("Less", "f half", "c"),
        conditional("c", "bv bi"),
        node("ReduceMean", "bv", "m", axes=[1]),
        node("Add", "state m", "next"),
    ]
    return looped(nodes, half=np.float32(0.5), most=np.array(2))


def in_a_scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("ArgMax", "row", "bi", axis=0, keepdims=0), node("Identity", "state", "next")],
        "body",
        [declared("state", FLOAT), declared("row", FLOAT, 1)],
        [declared("next", FLOAT), declared("bi", INT64)],
    )
    ends = [tensor("v"), tensor("i", "N", elem_type=INT64)]
    return scored([node("Scan", "zero l", "v i", body=body, num_scan_inputs=1)], ends, zero=np.float32(0))


def backwards_in_a_scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [top("b", "rows"), node("Add", "state bv", "next")],
        "body",
        [declared("state", FLOAT, 2), declared("rows", FLOAT, 2)],
        [declared("next", FLOAT, 2), declared("bi", INT64, 2)],
    )
    scan = node("Scan", "zeros u", "v i", body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[2])
    scan.attribute.extend([helper.make_attribute(f"scan_{side}put_directions", [1]) for side in ("in", "out")])
    nodes = [node("Mul", "l minus", "n"), node("Unsqueeze", "l ax", "l3"), node("Unsqueeze", "n ax", "n3")]
    nodes += [node("Concat", "l3 n3", "u", axis=1), scan]
    ends = [tensor("v", "N", None), tensor("i", "N", None, None, elem_type=INT64)]
    constants = {"minus": np.float32(-1), "ax": np.array([1]), "zeros": np.zeros((1, 5), np.float32)}
    return scored(nodes, ends, **constants)


def in_a_function() -> onnx.ModelProto:
    model = scored([helper.make_node("Best", ["l", "k"], ["v", "i"], domain="own", name="best")], ENDS)
    inner = helper.make_node("TopK", ["scores", "count"], ["values", "places"], axis=1)
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function("own", "Best", ["scores", "count"], ["values", "places"], [inner], opsets)
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


MODELS = [
    in_a_branch, in_a_loop, in_a_branch_in_a_loop, in_a_scan, backwards_in_a_scan, in_a_function,
]  # fmt: skip


def last_bit(weight: np.ndarray) -> np.ndarray:
    """Move the second of any two equal columns by a unit in the last place."""
    moved = np.nextafter(weight, np.float32(np.inf))
    half = weight.shape[1] // 2
    weight[:, half:] = moved[:, half:]
    return weight


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_ties_in_bodies(make: Callable[[], onnx.ModelProto]) -> None:
    model = make()
    onnx.checker.check_model(model)
    other = changed(model, "w2", last_bit)
    report = verify(model, other)
    assert report.passed, report.reason
    assert report.settled_in_float64
    wrong = verify(model, nudged(other, "b2", 1e-3, 3))
    assert not wrong.passed and "the scores that" in wrong.reason


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_another_selection_in_a_body_is_refused(make: Callable[[], onnx.ModelProto]) -> None:
    """The same scores, of which others are taken."""
    model = make()
    other = changed(model, "w2", last_bit)
    graphs = [other.graph, *(each.g for every in other.graph.node for each in every.attribute)]
    graphs += [each.g for graph in graphs for every in graph.node for each in every.attribute]
    nodes = [inner for graph in graphs for inner in graph.node]
    nodes += [inner for function in other.functions for inner in function.node]
    for chosen in nodes:
        if chosen.op_type == "TopK" and not any(each.name == "largest" for each in chosen.attribute):
            chosen.attribute.append(helper.make_attribute("largest", 0))
        chosen.op_type = "ArgMin" if chosen.op_type == "ArgMax" else chosen.op_type
    report = verify(model, other)
    assert not report.passed and "selects what rounding of its scores does not explain" in report.reason


def tied() -> list[onnx.NodeProto]:
    """Return nodes that make two numbers that are equal but for rounding."""
    return [
        node("Split", "l", "l0 l1", axis=1),
        node("ReduceMax", "l0", "s0", keepdims=0),
        node("ReduceMax", "l1", "s1", keepdims=0),
    ]


def test_a_tied_condition() -> None:
    """Which branch is taken is a selection; what comes of it is judged given that."""
    model = scored([*tied(), node("Greater", "s1 s0", "c"), conditional("c")], ENDS)
    other = changed(model, "w2", last_bit)
    report = verify(model, other)
    assert report.passed and report.settled_in_float64, report.reason
    assert not verify(model, nudged(other, "b2", 1e-3, 3)).passed


def test_a_loop_that_ends_at_a_tie() -> None:
    """Whether it goes on depends on which of two equal numbers is larger."""
    nodes = [
        *tied(),
        node("Greater", "s1 s0", "goes_on"),
        node("Mul", "state half", "next"),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [declared("number", INT64), declared("going", BOOL), declared("state", FLOAT, 2)],
        [declared("goes_on", BOOL), declared("next", FLOAT, 2)],
    )
    loop = node("Loop", "most - l", "v", body=body)
    model = scored([loop], [tensor("v", "N", None)], half=np.float32(0.5), most=np.array(3))
    other = changed(model, "w2", last_bit)
    report = verify(model, other)
    assert report.passed and report.settled_in_float64, report.reason
    assert not verify(model, nudged(other, "b2", 1e-3, 3)).passed
