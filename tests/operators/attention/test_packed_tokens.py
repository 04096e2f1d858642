"""Attention over packed tokens: channels, heads and their elements leave as they do elsewhere.

onnxruntime has these operators for GPUs alone, so that both models run in onnx's reference, which learns them here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tests.support.planted.checks import deviation, minimize

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
FEATURES, WIDTH, HEADS, SIZE, OUT = 5, 12, 3, 4, 2


class RemovePadding(OpRun):
    op_domain: ClassVar[str] = MICROSOFT

    def _run(self, x: Array, counts: Array) -> tuple[Array, ...]:
        inside = np.arange(x.shape[1]) < counts[:, None]
        places = np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)]).reshape(x.shape[:2])
        starts = np.concatenate([[0], np.cumsum(counts)])
        return x[inside], places.astype(np.int32), starts.astype(np.int32), np.array([counts.max()], np.int32)


class RestorePadding(OpRun):
    op_domain: ClassVar[str] = MICROSOFT

    def _run(self, x: Array, places: Array) -> tuple[Array]:
        found = np.zeros((places.size, x.shape[1]), x.dtype)
        found[places.ravel()[: len(x)]] = x
        return (found.reshape(*places.shape, -1),)


def attended(q: Array, k: Array, v: Array, starts: Array, heads: int, scale: float | None, bias: Array | None) -> Array:
    parts = []
    for index, (start, stop) in enumerate(zip(starts, starts[1:], strict=False)):
        queries, keys, values = (
            array[start:stop].reshape(stop - start, heads, -1).transpose(1, 0, 2) for array in (q, k, v)
        )
        scores = queries @ keys.transpose(0, 2, 1) * (scale or 1 / np.sqrt(queries.shape[-1]))
        if bias is not None:
            scores = (
                scores
                + np.broadcast_to(bias, (len(starts) - 1, heads, *bias.shape[2:]))[
                    index, :, : stop - start, : stop - start
                ]
            )
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = shares / shares.sum(axis=-1, keepdims=True)
        parts.append((shares @ values).transpose(1, 0, 2).reshape(stop - start, -1))
    return np.concatenate(parts).astype(q.dtype)


class PackedAttention(OpRun):
    op_domain: ClassVar[str] = MICROSOFT

    def _run(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        places: Array,
        starts: Array,
        added: Array | None = None,
        num_heads: int = 1,
        qkv_hidden_sizes: Any = None,
        scale: float | None = None,
    ) -> tuple[Array]:
        sizes = qkv_hidden_sizes or [weight.shape[1] // 3] * 3
        q, k, v = np.split(x @ weight + bias, np.cumsum(sizes)[:2], axis=1)
        return (attended(q, k, v, starts, num_heads, scale, added),)


class PackedMultiHeadAttention(OpRun):
    op_domain: ClassVar[str] = MICROSOFT

    def _run(
        self,
        q: Array,
        k: Array,
        v: Array,
        bias: Array | None,
        places: Array,
        starts: Array,
        added: Array | None = None,
        num_heads: int = 1,
        mask_filter_value: float = 0.0,
        scale: float | None = None,
    ) -> tuple[Array]:
        if bias is not None:
            parts = np.split(bias, np.cumsum([q.shape[1], k.shape[1]]))
            q, k, v = q + parts[0], k + parts[1], v + parts[2]
        return (attended(q, k, v, starts, num_heads, scale, added),)


OPERATORS = [RemovePadding, RestorePadding, PackedAttention, PackedMultiHeadAttention]


def drawn(seed: int, gone: int) -> dict[str, Array]:
    """Return the weights of a layer, an attention and a layer; ``gone`` of the stream are zero, and a head is dead.

    Of the others each has one product of queries and keys that is always 0, and one value that nobody reads.
    """
    random = np.random.default_rng(seed)
    shapes: dict[str, Any] = {"wa": (FEATURES, WIDTH), "ba": WIDTH, "out": (HEADS, SIZE, OUT)}
    shapes |= dict.fromkeys("qkv", (WIDTH, HEADS, SIZE)) | {f"b{name}": (HEADS, SIZE) for name in "qkv"}
    found = {name: random.uniform(0.3, 1, shape) * random.choice([-1, 1], shape) for name, shape in shapes.items()}
    chosen = random.permutation(WIDTH)[:gone]
    found["wa"][:, chosen], found["ba"][chosen] = 0, 0
    if gone:
        dead = random.integers(HEADS)
        found["out"][dead] = 0
        for head in range(HEADS):
            product, value = random.integers(SIZE), random.integers(SIZE)
            found["q"][:, head, product], found["bq"][head, product] = 0, 0
            found["out"][head, value] = 0
    return found


def network(gone: int, projects: bool, bias: bool, added: str = "", heads: int = HEADS) -> onnx.ModelProto:
    stored = drawn(gone, gone)
    stored |= {name: stored[name].reshape(WIDTH, -1) for name in "qkv"}
    stored |= {f"b{name}": stored[f"b{name}"].reshape(-1) for name in "qkv"}
    stored["out"] = stored["out"].reshape(-1, OUT)
    if added:
        stored["scores"] = np.random.default_rng(7).standard_normal((1, HEADS if added == "heads" else 1, 6, 6))
    nodes = [
        helper.make_node("MatMul", ["x", "wa"], ["m"]),
        helper.make_node("Add", ["m", "ba"], ["s"]),
        helper.make_node("RemovePadding", ["s", "counts"], ["p", "places", "starts", "longest"], domain=MICROSOFT),
    ]
    more = ["scores"] if added else []
    if projects:
        stored["w"] = np.concatenate([stored.pop(name) for name in "qkv"], axis=1)
        stored["b"] = np.concatenate([stored.pop(f"b{name}") for name in "qkv"])
        inputs = ["p", "w", "b", "places", "starts", *more]
        nodes.append(helper.make_node("PackedAttention", inputs, ["t"], domain=MICROSOFT, num_heads=HEADS))
    else:
        nodes += [helper.make_node("MatMul", ["p", name], [f"x{name}"]) for name in "qkv"]
        operands = [f"x{name}" for name in "qkv"]
        if bias:
            stored["b"] = np.concatenate([stored.pop(f"b{name}") for name in "qkv"])
        else:
            nodes += [helper.make_node("Add", [f"x{name}", f"b{name}"], [f"y{name}"]) for name in "qkv"]
            operands = [f"y{name}" for name in "qkv"]
        inputs = [*operands, "b" if bias else "", "places", "starts", *more]
        nodes.append(helper.make_node("PackedMultiHeadAttention", inputs, ["t"], domain=MICROSOFT, num_heads=HEADS))
    nodes += [
        helper.make_node("MatMul", ["t", "out"], ["z"]),
        helper.make_node("RestorePadding", ["z", "places"], ["y"], domain=MICROSOFT),
    ]
    inputs_ = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "S", FEATURES]),
        helper.make_tensor_value_info("counts", TensorProto.INT32, ["N"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "S", OUT])]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "packed", inputs_, outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def assert_equal(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    random = np.random.default_rng(3)
    for batch, tokens in ((1, 4), (3, 6)):
        counts = random.integers(1, tokens + 1, batch).astype(np.int32)
        feeds = {"x": random.standard_normal((batch, tokens, FEATURES)).astype(np.float32), "counts": counts}
        found = [ReferenceEvaluator(each, new_ops=OPERATORS).run(None, feeds) for each in (model, other)]
        assert deviation(*found) < 2e-5


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


@pytest.mark.parametrize("added", ["", "all", "heads"])
def test_packed_attention(added: str) -> None:
    """A head of three leaves, and of the others one of four products, and one of four values."""
    model = network(5, True, True, added)
    result = minimize(model)
    found = shapes(result.model)
    assert (found["wa"], found["w"]) == ((FEATURES, 7), (7, 3 * 2 * 3)), dict(result.report.stayed)
    assert (found["b"], found["out"]) == ((18,), (6, OUT))
    if added:
        assert found["scores"] == (1, 2 if added == "heads" else 1, 6, 6)
    assert_equal(model, result.model)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("added", ["", "all", "heads"])
def test_packed_multi_head_attention(bias: bool, added: str) -> None:
    model = network(5, False, bias, added)
    result = minimize(model)
    found = shapes(result.model)
    assert (found["wa"], found["q"], found["k"]) == ((FEATURES, 7), (7, 6), (7, 6)), dict(result.report.stayed)
    assert (found["v"], found["out"]) == ((7, 6), (6, OUT))
    assert_equal(model, result.model)


@pytest.mark.parametrize("projects", [False, True])
def test_nothing_leaves(projects: bool) -> None:
    model = network(0, projects, True)
    assert minimize(model).model.graph.node == model.graph.node


def test_a_constant_beside_zeros_stays() -> None:
    """Behind RestorePadding it is one at some places only; in front of the attention it is folded."""
    model = network(5, True, True)
    bias = numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == "ba")).copy()
    gone = np.flatnonzero(bias == 0)
    bias[gone] = 0.7
    for tensor in model.graph.initializer:
        if tensor.name == "ba":
            tensor.CopyFrom(numpy_helper.from_array(bias, "ba"))
    result = minimize(model)
    assert shapes(result.model)["w"] == (7, 18)
    assert_equal(model, result.model)
    again = onnx.ModelProto()
    again.CopyFrom(model)
    del again.graph.node[3:]
    for tensor in again.graph.initializer:
        if tensor.name == "out":
            tensor.CopyFrom(numpy_helper.from_array(np.ones((WIDTH, OUT), np.float32), "out"))
    again.graph.node.append(helper.make_node("RestorePadding", ["p", "places"], ["r"], domain=MICROSOFT))
    again.graph.node.append(helper.make_node("MatMul", ["r", "out"], ["y"]))
    kept = minimize(again, narrowing=False)
    assert shapes(kept.model)["wa"] == (FEATURES, WIDTH)
    assert_equal(again, kept.model)
