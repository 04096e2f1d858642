"""Heads that lie in one axis with the batch, of which some are zero, meet another tensor in an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from tests.support.planted.checks import assert_equal_outputs

STEPS, HEADS, DIMS = 5, 4, 4
WIDTH = HEADS * DIMS
Meeting = Callable[[dict[str, np.ndarray]], list[NodeProto]]


def node(op: str, inputs: Sequence[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def network(meet: Meeting, dead: Sequence[int], steps_first: bool = False) -> onnx.ModelProto:
    """Return a network of p and q, each [batch * heads, steps, dims]; of p the ``dead`` heads are zero.

    With ``steps_first`` the last layer reads [steps * batch, heads * dims], as nn.MultiheadAttention is exported.
    """
    random = np.random.default_rng(0)
    tensors = {f"w{name}": (random.standard_normal((16, WIDTH)) / 2).astype(np.float32) for name in "pq"}
    for head in dead:
        tensors["wp"][:, head * DIMS : (head + 1) * DIMS] = 0
    tensors["last"] = random.standard_normal((WIDTH, 7)).astype(np.float32)
    tensors["apart"], tensors["merged"] = np.array([0, STEPS, HEADS, DIMS]), np.array([-1, STEPS, DIMS])
    tensors["again"], tensors["flat"] = np.array([-1, HEADS, STEPS, DIMS]), np.array([0, STEPS, WIDTH])
    nodes = []
    for name in "pq":
        nodes += [
            node("MatMul", [f"x{name}", f"w{name}"], f"{name}0"),
            node("Reshape", [f"{name}0", "apart"], f"{name}1"),
            node("Transpose", [f"{name}1"], f"{name}2", perm=[0, 2, 1, 3]),
            node("Reshape", [f"{name}2", "merged"], name),
        ]
    nodes += meet(tensors)
    if steps_first:
        tensors["flat"] = np.array([-1, WIDTH])
        nodes += [node("Transpose", ["met"], "o2", perm=[1, 0, 2]), node("Reshape", ["o2", "flat"], "o3")]
    else:
        nodes += [
            node("Reshape", ["met", "again"], "o1"),
            node("Transpose", ["o1"], "o2", perm=[0, 2, 1, 3]),
            node("Reshape", ["o2", "flat"], "o3"),
        ]
    nodes.append(node("MatMul", ["o3", "last"], "y"))
    inputs = [helper.make_tensor_value_info(f"x{name}", TensorProto.FLOAT, ["N", STEPS, 16]) for name in "pq"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 7] if steps_first else ["N", STEPS, 7])
    kept = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, [output], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def grid_sample(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    """As deformable attention does: an image of one row, read at places that each head has computed."""
    tensors.update(axis=np.array([2]), first=np.array([0]), end=np.array([2]), along=np.array([1]))
    tensors["places"] = np.array([0, 1, DIMS, 2])
    return [
        node("Unsqueeze", ["p", "axis"], "image"),
        node("Slice", ["q", "first", "end", "along"], "part"),
        node("Reshape", ["part", "places"], "grid"),
        node("GridSample", ["image", "grid"], "sampled"),
        node("Squeeze", ["sampled", "axis"], "met"),
    ]


def grid_from_outside(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    """The grids were not made by heads, so that none can leave them."""
    tensors.update(axis=np.array([2]), places=np.array([0, 1, DIMS, 2]), times=np.array([HEADS, 1, 1, 1]))
    tensors.update(first=np.array([0, 0]), end=np.array([2, DIMS]), along=np.array([1, 2]))
    return [
        node("Slice", ["xq", "first", "end", "along"], "part"),
        node("Reshape", ["part", "places"], "one"),
        node("Tile", ["one", "times"], "grid"),
        node("Unsqueeze", ["p", "axis"], "image"),
        node("GridSample", ["image", "grid"], "sampled"),
        node("Squeeze", ["sampled", "axis"], "squeezed"),
        node("Add", ["squeezed", "q"], "met"),
    ]


def reverse_sequence(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    tensors.update(axes=np.array([1, 2]), zero=np.float32(0), three=np.int64(3))
    return [
        node("ReduceSum", ["q", "axes"], "sums", keepdims=0),
        node("Greater", ["sums", "zero"], "positive"),
        node("Cast", ["positive"], "more", to=TensorProto.INT64),
        node("Add", ["more", "three"], "lengths"),
        node("ReverseSequence", ["p", "lengths"], "met", batch_axis=0, time_axis=1),
    ]


def gather_elements(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    tensors["zero"] = np.float32(0)
    return [
        node("Greater", ["q", "zero"], "positive"),
        node("Cast", ["positive"], "places", to=TensorProto.INT64),
        node("GatherElements", ["p", "places"], "met", axis=1),
    ]


def attention(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    return [
        node("Transpose", ["q"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["q", "turned"], "scores"),
        node("Softmax", ["scores"], "shares"),
        node("MatMul", ["shares", "p"], "met"),
    ]


def causal(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    """Linear attention: no softmax, and zeros above the diagonal of the scores."""
    return [
        node("Transpose", ["q"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["q", "turned"], "scores"),
        node("Trilu", ["scores"], "past", upper=0),
        node("MatMul", ["past", "p"], "met"),
    ]


def triangle_of_channels(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    """Channels lie in the matrices themselves."""
    tensors["one"] = np.int64(1)
    return [node("Trilu", ["p", "one"], "past", upper=0), node("Add", ["past", "q"], "met")]


def state(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    """Each head has an initial state of its own."""
    random = np.random.default_rng(1)
    tensors["kernel"], tensors["recurrent"] = random.standard_normal((2, 1, 3 * DIMS, DIMS)).astype(np.float32) / 2
    tensors.update(first=np.array(0), front=np.array([0]), direction=np.array([1]))
    return [
        node("Transpose", ["p"], "steps", perm=[1, 0, 2]),
        node("Gather", ["q", "first"], "start", axis=1),
        node("Unsqueeze", ["start", "front"], "initial"),
        node("GRU", ["steps", "kernel", "recurrent", "", "", "initial"], "states", hidden_size=DIMS),
        node("Squeeze", ["states", "direction"], "squeezed"),
        node("Transpose", ["squeezed"], "met", perm=[1, 0, 2]),
    ]


def over_the_batch(tensors: dict[str, np.ndarray]) -> list[NodeProto]:
    """All that lies in the axis is read together."""
    return [node("Softmax", ["p"], "shares", axis=0), node("Mul", ["shares", "q"], "met")]


@pytest.mark.parametrize("dead", [(0,), (1, 3)])
@pytest.mark.parametrize(
    ("meet", "leaves"),
    [
        (grid_sample, True),
        (grid_from_outside, False),
        (attention, True),
        (causal, True),
        (triangle_of_channels, False),
        (gather_elements, True),
        (reverse_sequence, False),
        (state, False),
        (over_the_batch, False),
    ],
)
@pytest.mark.parametrize("steps_first", [False, True])
def test_both_lose_a_head_or_neither(meet: Meeting, leaves: bool, dead: tuple[int, ...], steps_first: bool) -> None:
    model = network(meet, dead, steps_first)
    result = sq.minimize(model, round_to=1, verify=False)
    assert_equal_outputs(model, result.model, double=False)
    left = {tuple(tensor.dims) for tensor in result.model.graph.initializer}
    width = WIDTH - DIMS * len(dead)
    assert ((16, width) in left and (16, WIDTH) not in left and (width, 7) in left) == leaves
