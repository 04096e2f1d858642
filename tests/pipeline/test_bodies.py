"""Bodies of `If`, `Loop` and `Scan` that stay are minimized inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from tests.support.planted.checks import deviation, run

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
WIDTH, HIDDEN = 4, 32
RANDOM = np.random.default_rng(0)


def info(name: str, kind: int = FLOAT, shape: Any = ("N", WIDTH)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def layers(live: int, suffix: str = "", data: str = "x") -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Two layers with so many units that are not dead; what they write is ``o`` with the suffix."""
    first, last = RANDOM.standard_normal((WIDTH, HIDDEN)), RANDOM.standard_normal((HIDDEN, WIDTH))
    first[:, live:] = 0
    nodes = [
        helper.make_node("MatMul", [data, f"w{suffix}"], [f"h{suffix}"]),
        helper.make_node("Relu", [f"h{suffix}"], [f"r{suffix}"]),
        helper.make_node("MatMul", [f"r{suffix}", f"v{suffix}"], [f"o{suffix}"]),
    ]
    arrays = {f"w{suffix}": first, f"v{suffix}": last}
    return nodes, [numpy_helper.from_array(value.astype(np.float32) / 4, name) for name, value in arrays.items()]


def branch(live: int, suffix: str = "", data: str = "x", constants: bool = False) -> onnx.GraphProto:
    nodes, tensors = layers(live, suffix, data)
    if constants:
        nodes = [*(helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors), *nodes]
    return helper.make_graph(nodes, "branch", [], [info(f"o{suffix}")], [] if constants else tensors)


def model(nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto], *inputs: onnx.ValueInfoProto) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", [info("x"), *inputs], [info("y")], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def chosen(then: onnx.GraphProto, other: onnx.GraphProto, output: str = "y") -> onnx.NodeProto:
    return helper.make_node("If", ["c"], [output], f"choose_{output}", then_branch=then, else_branch=other)


CONDITION = info("c", BOOL, ())


def kernels(proto: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all matrices in a graph and in those inside, in order."""
    found = [tuple(tensor.dims) for tensor in proto.initializer if len(tensor.dims) == 2]
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.name == "value" and len(attribute.t.dims) == 2:
                found.append(tuple(attribute.t.dims))
            if attribute.type == onnx.AttributeProto.GRAPH:
                found += kernels(attribute.g)
    return found


def narrowed(given: onnx.ModelProto, **options: Any) -> sq.Result:
    before = given.SerializeToString(deterministic=True)
    result = sq.minimize(given, round_to=1, **options)
    assert given.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result.model, full_check=True)
    assert len(result.model.SerializeToString()) <= len(before)
    for batch in (1, 3):
        for condition in (True, False):
            feeds = {"x": np.random.default_rng(batch).standard_normal((batch, WIDTH)).astype(np.float32)}
            if any(value.name == "c" for value in given.graph.input):
                feeds["c"] = np.array(condition)
            for optimized in (False, True):
                assert deviation(run(given, feeds, optimized), run(result.model, feeds, optimized)) <= 2e-5
    again = sq.minimize(result.model, round_to=1)
    assert again.model == result.model, "a second run finds something"
    return result


def said(result: sq.Result, reason: Reason) -> bool:
    return any(reason.value in words for layer in result.report.layers for words in layer.stayed)


def pair(live: int) -> list[tuple[int, ...]]:
    return [(WIDTH, live), (live, WIDTH)]


@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("suffixes", [("a", "b"), ("", "")], ids=["apart", "alike"])
def test_branches_narrow_each_by_itself(suffixes: tuple[str, str], constants: bool) -> None:
    first, second = (branch(live, suffix, constants=constants) for live, suffix in zip((10, 20), suffixes, strict=True))
    result = narrowed(model([chosen(first, second)], [], CONDITION))
    assert sorted(kernels(result.model.graph)) == sorted(pair(10) + pair(20))
    assert result.report.weights_before == 4 * WIDTH * HIDDEN
    assert result.report.weights_after == 2 * WIDTH * (10 + 20)
    assert sorted(layer.weights_after for layer in result.report.layers) == [40, 40, 80, 80]
    assert all(layer.name.startswith("choose_y/h") or "/o" in layer.name for layer in result.report.layers)


def test_what_is_captured_and_handed_out_stays() -> None:
    """Channels of zeros that a branch reads, and that it hands out."""
    nodes, tensors = layers(10, "m")
    zeros = numpy_helper.to_array(tensors[1]).copy()
    zeros[:, 1] = 0
    tensors[1] = numpy_helper.from_array(zeros, tensors[1].name)
    result = narrowed(model([*nodes, chosen(branch(10, "a", "om"), branch(20, "b", "om"))], tensors, CONDITION))
    assert sorted(kernels(result.model.graph)) == sorted(pair(10) + pair(10) + pair(20))
    assert said(result, Reason.SUBGRAPH)


def test_what_is_handed_out_stays() -> None:
    """The branch writes zeros in a channel, which the graph outside does not know."""
    first, second = branch(10, "a"), branch(20, "b")
    last = numpy_helper.to_array(first.initializer[1]).copy()
    last[:, 2] = 0
    first.initializer[1].CopyFrom(numpy_helper.from_array(last, first.initializer[1].name))
    result = narrowed(model([chosen(first, second)], [], CONDITION))
    assert sorted(kernels(result.model.graph)) == sorted(pair(10) + pair(20))
    assert said(result, Reason.HANDED_OUT)


def test_kept_on_request_inside() -> None:
    given = model([chosen(branch(10, "a"), branch(20, "b"))], [], CONDITION)
    result = sq.minimize(given, round_to=1, keep=["ha"])
    assert {(HIDDEN, WIDTH), *pair(20)} <= set(kernels(result.model.graph))
    assert said(result, Reason.KEPT_BY_USER)


@pytest.mark.parametrize("form", ["stock", "function", "primitives"])
def test_norm_inside(form: str) -> None:
    """What a norm becomes may be a function, which the model then defines."""
    width, left = 64, 20
    up, down = RANDOM.standard_normal((WIDTH, width)), RANDOM.standard_normal((width, WIDTH))
    up[:, left:] = 0
    arrays = {"u": up, "s": RANDOM.standard_normal(width), "b": RANDOM.standard_normal(width), "d": down}
    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["stream"]),
        helper.make_node("LayerNormalization", ["stream", "s", "b"], ["normed"], axis=-1),
        helper.make_node("MatMul", ["normed", "d"], ["on"]),
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32) / 8, name) for name, value in arrays.items()]
    first = helper.make_graph(nodes, "first", [], [info("on")], tensors)
    given = model([chosen(first, branch(20, "b"))], [], CONDITION)
    result = sq.minimize(given, round_to=1, layernorm=form)
    onnx.checker.check_model(result.model, full_check=True)
    assert max(shape[0] for shape in kernels(result.model.graph)) < width
    assert len(result.model.functions) == (form == "function")


def test_branch_in_a_branch() -> None:
    inner = helper.make_graph([chosen(branch(5, "a"), branch(6, "b"), "z")], "inner", [], [info("z")])
    result = narrowed(model([chosen(inner, branch(7, "c"))], [], CONDITION))
    assert sorted(kernels(result.model.graph)) == sorted(pair(5) + pair(6) + pair(7))


def test_constant_branch_in_a_live_one() -> None:
    """It is put in its place, in a body that has another one of the same names beside it."""
    settled = helper.make_node("If", ["always"], ["z"], then_branch=branch(5), else_branch=branch(6))
    inner = helper.make_graph([settled], "inner", [], [info("z")])
    given = model([chosen(inner, branch(7))], [numpy_helper.from_array(np.array(True), "always")], CONDITION)
    assert sorted(kernels(narrowed(given).model.graph)) == sorted(pair(5) + pair(7))


def test_weights_outside_that_one_branch_reads() -> None:
    """They are narrowed for it, and go from where they were."""
    nodes, tensors = layers(9, "m")
    first = helper.make_graph(nodes, "first", [], [info("om")])
    result = narrowed(model([chosen(first, branch(7, "b"))], tensors, CONDITION))
    assert sorted(kernels(result.model.graph)) == sorted(pair(9) + pair(7))


def test_weights_outside_that_others_read_stay_where_copies_would_be_larger() -> None:
    nodes, tensors = layers(20, "m")
    first = helper.make_graph(nodes, "first", [], [info("om")])
    product = helper.make_node("MatMul", ["wm", "vm"], ["square"])
    last = helper.make_node("MatMul", ["z", "square"], ["y"])
    given = model([product, chosen(first, branch(HIDDEN, "b"), "z"), last], tensors, CONDITION)
    result = narrowed(given)
    assert len(result.model.SerializeToString()) <= len(given.SerializeToString())


def loop(live: int, *, collects: bool = False) -> onnx.ModelProto:
    """Of the state, channel 1 comes out of the body as zeros."""
    nodes, tensors = layers(live, "", "state")
    zeros = numpy_helper.to_array(tensors[1]).copy()
    zeros[:, 1] = 0
    tensors[1] = numpy_helper.from_array(zeros, "v")
    nodes += [helper.make_node("Tanh", ["o"], ["next"]), helper.make_node("Identity", ["go"], ["go_on"])]
    made = [info("go_on", BOOL, ()), info("next")]
    if collects:
        nodes.append(helper.make_node("Neg", ["next"], ["step"]))
        made.append(info("step"))
    body = helper.make_graph(nodes, "body", [info("i", INT64, ()), info("go", BOOL, ()), info("state")], made, tensors)
    outputs = ["last", "steps"] if collects else ["y"]
    outside = [helper.make_node("Loop", ["trips", "", "x"], outputs, "rounds", body=body)]
    if collects:
        outside.append(helper.make_node("ReduceMean", ["steps"], ["y"], axes=[0], keepdims=0))
    return model(outside, [numpy_helper.from_array(np.array(3), "trips")])


@pytest.mark.parametrize("collects", [False, True])
def test_loop(collects: bool) -> None:
    result = narrowed(loop(11, collects=collects))
    assert sorted(kernels(result.model.graph)) == sorted(pair(11))
    assert said(result, Reason.CARRIED)


def test_scan() -> None:
    nodes, tensors = layers(11, "", "row")
    nodes.append(helper.make_node("Add", ["o", "state"], ["next"]))
    nodes.append(helper.make_node("Identity", ["next"], ["out"]))
    vector = (WIDTH,)
    given, made = [info("state", shape=vector), info("row", shape=vector)], [info("next", shape=vector)]
    body = helper.make_graph(nodes, "body", given, [*made, info("out", shape=vector)], tensors)
    start = numpy_helper.from_array(np.zeros(WIDTH, np.float32), "start")
    scan = helper.make_node("Scan", ["start", "x"], ["last", "y"], "sweep", body=body, num_scan_inputs=1)
    result = narrowed(model([scan], [start]))
    assert sorted(kernels(result.model.graph)) == sorted(pair(11))


@pytest.mark.parametrize("live", [0, 5])
def test_what_no_branch_captures_any_more_leaves(live: int) -> None:
    """Both branches read two layers outside by weights that are all zero; without them those layers are dead."""
    nodes, stored = layers(16, "1")
    branches = []
    for name in ("then", "else"):
        inner, tensors = layers(live, name, "o1")
        for tensor in tensors if not live else ():
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
        inner.append(helper.make_node("Add", [f"o{name}", "x"], [f"s{name}"]))
        branches.append(helper.make_graph(inner, name, [], [info(f"s{name}")], tensors))
    given = model([*nodes, chosen(*branches)], stored, CONDITION)
    assert [shape for shape in kernels(narrowed(given).model.graph) if shape == (WIDTH, 16)] == [(WIDTH, 16)] * (
        live > 0
    )


def test_nothing_leaves_nothing_changes() -> None:
    given = model([chosen(branch(HIDDEN, "a"), branch(HIDDEN, "b"))], [], CONDITION)
    assert sq.minimize(given, round_to=1).model == given


@pytest.mark.parametrize("unlike", ["", "batch", "rank"])
def test_behind_branches(unlike: str) -> None:
    """What comes out of a choice has the shape that its branches agree on, which no file need declare."""
    branches = [branch(10, "a"), branch(20, "b")]
    if unlike:
        more = {
            "batch": helper.make_node("Concat", ["ob", "ob"], ["more"], axis=0),
            "rank": helper.make_node("Unsqueeze", ["ob", "zero"], ["more"]),
        }[unlike]
        branches[1].node.append(more)
        branches[1].output[0].CopyFrom(info("more", shape=("M", WIDTH) if unlike == "batch" else (1, "N", WIDTH)))
    nodes, tensors = layers(12, "m", "chosen")
    if unlike:  # of which the graph's output is none
        nodes.append(helper.make_node("ReduceSum", ["om", "zero"], ["sum"], keepdims=1))
        nodes.append(helper.make_node("Add", ["x", "zeros"], ["y"]))
        zeros = numpy_helper.from_array(np.zeros(WIDTH, np.float32), "zeros")
        tensors += [numpy_helper.from_array(np.array([0]), "zero"), zeros]
    else:
        nodes[-1].output[0] = "y"
    given = model([chosen(branches[0], branches[1], "chosen"), *nodes], tensors, CONDITION)
    if unlike:
        given.graph.output.append(helper.make_empty_tensor_value_info("sum"))
        given.graph.output[-1].type.tensor_type.elem_type = FLOAT
        given.graph.output[-1].type.tensor_type.shape.dim.add().dim_param = "any"
        given.graph.output[-1].type.tensor_type.shape.dim.add().dim_param = "other"
        if unlike == "rank":
            given.graph.output[-1].type.tensor_type.shape.dim.add().dim_param = "third"
    result = sq.minimize(given, round_to=1).model
    left = HIDDEN if unlike == "rank" else 12
    assert sorted(kernels(result.graph)) == sorted(pair(10) + pair(20) + pair(left))
    for batch, condition in ((1, True), (3, False)):
        x = np.random.default_rng(batch).standard_normal((batch, WIDTH)).astype(np.float32)
        feeds = {"x": x, "c": np.array(condition)}
        for optimized in (False, True):
            assert deviation(run(given, feeds, optimized), run(result, feeds, optimized)) <= 2e-5


def test_sizes_of_branches_are_their_own() -> None:
    """Both call a size alike that is not the same: what comes out has one that is known of neither."""
    cuts = []
    for count, suffix in ((3, "a"), (2, "b")):
        starts = helper.make_node("Slice", ["x", "zero", f"count{suffix}"], ["cut"])
        reshaped = helper.make_node("NonZero", ["cut"], ["o"])
        cuts.append((count, suffix, starts, reshaped))
    branches = [
        helper.make_graph([starts, reshaped], "branch", [], [info("o", INT64, (2, "found"))])
        for _, _, starts, reshaped in cuts
    ]
    constants = [numpy_helper.from_array(np.array([count]), f"count{suffix}") for count, suffix, *_ in cuts]
    constants += [numpy_helper.from_array(np.array([0]), "zero"), numpy_helper.from_array(np.float32(2), "two")]
    other = helper.make_node("If", ["c"], ["first"], then_branch=branches[0], else_branch=branches[1])
    again = helper.make_node("If", ["c"], ["second"], then_branch=branches[1], else_branch=branches[0])
    shapes = [helper.make_node("Shape", [name], [f"{name}_shape"]) for name in ("first", "second")]
    given = model([other, again, *shapes, helper.make_node("Mul", ["x", "two"], ["y"])], constants, CONDITION)
    given.graph.output.extend(info(f"{name}_shape", INT64, (2,)) for name in ("first", "second"))
    context = analyse(load(given)).context
    assert context.shapes["first"][0] == context.shapes["second"][0] == 2
    assert context.shapes["first"][1] != context.shapes["second"][1]


@pytest.mark.parametrize("density", [0.05, 1.0])
def test_sparse_weights_of_branches(density: float) -> None:
    """They lose their channels, and take the shorter form."""
    branches, stored = [], []
    for live, suffix in ((10, "a"), (20, "b")):
        body = branch(live, suffix)
        tensor = body.initializer[0]
        array = numpy_helper.to_array(tensor).copy()
        array[1:, :live] *= RANDOM.random((WIDTH - 1, live)) < density
        array[:, 0] = 1  # or a row of x is not read at all
        places = np.flatnonzero(array)
        values = numpy_helper.from_array(array.ravel()[places], tensor.name)
        indices = helper.make_tensor("", INT64, places.shape, places)
        made = helper.make_sparse_tensor(values, indices, list(array.shape))
        stored.append(numpy_helper.from_array(array, tensor.name))
        body.sparse_initializer.append(made)
        del body.initializer[0]
        branches.append(body)
    graph = helper.make_graph([chosen(*branches)], "graph", [info("x"), CONDITION], [info("y")])
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = sq.minimize(given, round_to=1, verify=False).model
    assert result.ByteSize() <= given.ByteSize()
    shapes = []
    for attribute in result.graph.node[0].attribute:
        shapes += [tuple(tensor.dims) for tensor in (*attribute.g.initializer, *attribute.g.sparse_initializer)]
        assert bool(attribute.g.sparse_initializer) == (density < 0.5)
    assert sorted(shapes) == sorted(pair(10) + pair(20))
    for condition in (True, False):
        feeds = {"x": RANDOM.standard_normal((3, WIDTH)).astype(np.float32), "c": np.array(condition)}
        assert deviation(run(dense(given), feeds), run(dense(result), feeds)) <= 2e-5


def dense(given: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose branches store all weights whole: onnxruntime reads no sparse ones there."""
    made = onnx.ModelProto()
    made.CopyFrom(given)
    for node in made.graph.node:
        for attribute in node.attribute:
            for tensor in attribute.g.sparse_initializer:
                array = np.zeros(int(np.prod(tensor.dims)), np.float32)
                array[numpy_helper.to_array(tensor.indices)] = numpy_helper.to_array(tensor.values)
                attribute.g.initializer.append(numpy_helper.from_array(array.reshape(tensor.dims), tensor.values.name))
            attribute.g.ClearField("sparse_initializer")
    return made
