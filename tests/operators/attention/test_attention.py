"""Planted attention: heads and their dims come back at the small network's size."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.builders import CONST, DEAD, LIVE, Both, Units
from tests.support.planted.heads import Scores, attend, finish, heads, merge, probabilities, split, stream
from tests.support.planted.layers import Twin

SPLIT_TAKES_SIZES = 13  # as an input, from this opset on


def test_each_head_keeps_dims_of_its_own(twin: Twin) -> None:
    finish(twin, attend(twin, stream(twin), heads(twin, 3)))


def test_dead_heads_leave(twin: Twin) -> None:
    finish(twin, attend(twin, stream(twin), heads(twin, 4, dead=2)))


def test_dead_attention_leaves_with_its_nodes(twin: Twin) -> None:
    """What it gave is a constant, which joins the residual stream's next layer."""
    x = twin.matmul(twin.input("N", "T", 6, axis=2), twin.units(live=5, dead=2))
    with twin.only("wide"):
        y = twin.matmul(attend(twin, x, heads(twin, 2, dead=2)), np.full(len(x.kinds), CONST))
    finish(twin, twin.add_constant(x, y))


@pytest.mark.parametrize("detour", ["keys", "all"])
def test_batches_and_heads_in_one_axis(twin: Twin, detour: str) -> None:
    """Keys are transposed, or all is computed, as [batch * heads, time, dims]; the batch is dynamic."""
    planted, x = heads(twin, 3, dead=1), stream(twin)
    q, k, v = (twin.matmul(x, units) for units in (planted.q, planted.k, planted.v))
    pairs = ((q, planted.q), (k, planted.k), (v, planted.v))
    parts = [split(twin, y, planted.sizes(units)) for y, units in pairs]
    dims = [planted.sizes(units)[1] for _, units in pairs]
    merged = [_merged(twin, part, size) for part, size in zip(parts, dims, strict=True)]
    k_name = twin.node("Transpose", [merged[1]], perm=[0, 2, 1])[0]
    if detour == "keys":
        p = probabilities(twin, parts[0], _parted(twin, k_name, parts[0], (dims[1], -1)), 5)
        y_name = twin.node("MatMul", [p, parts[2]])[0]
    else:
        p = probabilities(twin, merged[0], k_name, 5)
        y_name = _parted(twin, twin.node("MatMul", [p, merged[2]])[0], parts[0], (-1, dims[2]))
    finish(twin, merge(twin, y_name, v, planted.v))


def _merged(twin: Twin, name: str, dims: Both) -> str:
    """Return [batch * heads, time, dims]; the time is copied from the input, as exporters write it."""
    time = twin.node("Slice", [*twin.node("Shape", [name]), *map(twin.integers, (2, 3, 0))])
    target = twin.node("Concat", [twin.integers(-1), *time, twin.integers(dims)], axis=0)
    return twin.node("Reshape", [name, *target])[0]


def _parted(twin: Twin, name: str, like: str, last: tuple[Both | int, Both | int]) -> str:
    """Return [batch, heads, ...] again."""
    leading = twin.node("Slice", [*twin.node("Shape", [like]), *map(twin.integers, (0, 2, 0))])
    target = twin.node("Concat", [*leading, twin.integers(*last)], axis=0)
    return twin.node("Reshape", [name, *target])[0]


def test_cross_attention(twin: Twin) -> None:
    x, memory = stream(twin), stream(twin, "S")
    finish(twin, attend(twin, x, heads(twin, 3, dead=1), memory=memory))


# -- masks, biases and guards ----------------------------------------------------------------------------------------


def _padding(twin: Twin, scores: str) -> str:
    """A mask that is an input, [batch, 1, 1, keys]."""
    return twin.node("Add", [scores, twin.input("N", 1, 1, "T")])[0]


def _flags(twin: Twin, scores: str) -> str:
    keep = twin.input("N", 1, "T", "T", elem_type=TensorProto.BOOL)
    return twin.node("Where", [keep, scores, twin.parameter(-1e9)])[0]


def _causal(twin: Twin, scores: str) -> str:
    """GPT-2: a triangle cut to size, and a filler."""
    triangle = twin.parameter(np.tril(np.ones((1, 1, 16, 16))), np.bool_)
    size = twin.node("Slice", [twin.node("Shape", [scores])[0], *map(twin.integers, (3, 4, 0))])[0]
    cut = twin.node("Slice", [triangle, twin.integers(0), size, twin.integers(2)])[0]
    cut = twin.node("Slice", [cut, twin.integers(0), size, twin.integers(3)])[0]
    return twin.node("Where", [cut, scores, twin.parameter(-np.inf)])[0]


@pytest.mark.parametrize("mask", [_padding, _flags, _causal])
def test_masks(twin: Twin, mask: Scores) -> None:
    finish(twin, attend(twin, stream(twin), heads(twin, 3, dead=1), change=mask))


@pytest.mark.parametrize("scaled", [False, True], ids=["added", "scaled"])
def test_bias_of_each_head(twin: Twin, scaled: bool) -> None:
    """Swin, T5: a table of scores for each head leaves with it."""
    planted = heads(twin, 3, dead=1)
    kept = (planted.q == LIVE).reshape(3, -1).any(axis=1)
    shape = (1, 3, 1, 1) if scaled else (1, 3, 7, 7)
    table = twin.random.uniform(0.5, 1, shape)
    name = twin.parameter(Both(table, table[:, kept]))
    x = twin.op("Tanh", twin.matmul(twin.input("N", 7, 6, axis=2), twin.units(live=5, dead=2, const=2)))
    y = attend(twin, x, planted, change=lambda twin, s: twin.node("Mul" if scaled else "Add", [s, name])[0])
    finish(twin, y)


# -- fused projections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["Split", "Slice"])
def test_one_projection_cut_in_three(twin: Twin, cut: str) -> None:
    planted = heads(twin, 3, dead=1)
    parts = (planted.q, planted.k, planted.v)
    y = twin.matmul(stream(twin), np.concatenate(parts))
    kept = [int((part == LIVE).sum()) for part in parts]
    if cut == "Slice":
        ends = [Both(len(planted.q) * n, sum(kept[:n])) for n in range(4)]
        q, k, v = (
            twin.op("Slice", y, twin.integers(ends[n]), twin.integers(ends[n + 1]), twin.integers(2), moves=True)
            for n in range(3)
        )
    else:
        sizes = Both([len(part) for part in parts], kept)
        if twin.opset < SPLIT_TAKES_SIZES:
            q, k, v = twin.ops("Split", y, moves=True, outputs=3, axis=2, split=sizes)
        else:
            q, k, v = twin.ops("Split", y, twin.parameter(sizes, np.int64), moves=True, outputs=3, axis=2)
    k_name = split(twin, k, planted.sizes(planted.k), (0, 2, 3, 1))
    p = probabilities(twin, split(twin, q, planted.sizes(planted.q)), k_name, 5)
    y_name = twin.node("MatMul", [p, split(twin, v, planted.sizes(planted.v))])[0]
    finish(twin, merge(twin, y_name, v, planted.v))


@pytest.mark.parametrize("take", ["Gather", "Split", "Slice"])
def test_one_projection_reshaped_to_three(twin: Twin, take: str) -> None:
    """ViT: [batch, time, 3, heads, dims], of which queries, keys and values keep equally many."""
    planted = heads(twin, 3, dead=1)
    x = twin.matmul(stream(twin), np.concatenate([planted.q, planted.k, planted.v]))
    y = twin.node("Reshape", [x, twin.integers(0, -1, 3, *planted.sizes(planted.q))])
    y = twin.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    if take == "Gather":
        parts = [twin.node("Gather", [*y, twin.parameter(n, np.int64)], axis=0)[0] for n in range(3)]
    elif take == "Split":
        parts = twin.node("Split", y, 3, axis=0, **({"num_outputs": 3} if twin.opset >= 18 else {}))
    else:
        parts = [twin.node("Slice", [*y, *map(twin.integers, (n, n + 1, 0))])[0] for n in range(3)]
    if take != "Gather":
        parts = [_squeeze(twin, part) for part in parts]
    k = twin.node("Transpose", [parts[1]], perm=[0, 1, 3, 2])[0]
    p = probabilities(twin, parts[0], k, 5)
    v = x.part(2 * len(planted.q), 3 * len(planted.q))
    finish(twin, merge(twin, twin.node("MatMul", [p, parts[2]])[0], v, planted.v))


def _squeeze(twin: Twin, name: str) -> str:
    if twin.opset >= 13:
        return twin.node("Squeeze", [name, twin.integers(0)])[0]
    return twin.node("Squeeze", [name], axes=[0])[0]


# -- keys and values shared by several queries -----------------------------------------------------------------------


def _repeated(twin: Twin, name: str, way: str, kv: Both, group: Both, dims: Both) -> str:
    """Repeat each head [batch, heads, time, dims] for the queries of its group."""
    if way == "Gather":
        indices = Both(*(np.repeat(np.arange(a), b) for a, b in ((kv.wide, group.wide), (kv.small, group.small))))
        return twin.node("Gather", [name, twin.parameter(indices, np.int64)], axis=1)[0]
    axes = {"axes": [2]} if twin.opset < 13 else {}
    y = twin.node("Unsqueeze", [name] if axes else [name, twin.integers(2)], **axes)
    if way == "Tile":
        y = twin.node("Tile", [*y, twin.integers(1, 1, group, 1, 1)])
    else:
        y = twin.node("Expand", [*y, twin.integers(1, kv, group, 1, dims)])
    count = Both(kv.wide * group.wide, kv.small * group.small)
    time = Both(-1, -1)
    return twin.node("Reshape", [*y, twin.integers(0, count, time, dims)])[0]


def _grouped(twin: Twin, kv: int, group: int, lost_kv: int, lost_slots: int) -> tuple[Units, Units, Units]:
    """Draw units of queries, keys and values: whole groups leave, and of the others the same queries."""
    planted = heads(twin, kv, dead=lost_kv)
    gone = set(twin.random.permutation(group)[:lost_slots])
    queries = [
        np.full(5, DEAD) if slot in gone else planted.q.reshape(kv, -1)[head]
        for head in range(kv)
        for slot in range(group)
    ]
    return np.concatenate(queries), planted.k, planted.v


@pytest.mark.parametrize("way", ["Expand", "Tile", "Gather"])
@pytest.mark.parametrize(("kv", "group", "lost_kv", "lost_slots"), [(3, 2, 1, 0), (2, 3, 0, 1), (1, 4, 0, 2)])
def test_grouped_queries(twin: Twin, way: str, kv: int, group: int, lost_kv: int, lost_slots: int) -> None:
    q_units, k_units, v_units = _grouped(twin, kv, group, lost_kv, lost_slots)
    x = stream(twin)
    q, k, v = (twin.matmul(x, units) for units in (q_units, k_units, v_units))
    counts, slots = Both(kv, kv - lost_kv), Both(group, group - lost_slots)
    q_sizes = (Both(kv * group, counts.small * slots.small), Both(5, 3))
    k_name = _repeated(twin, split(twin, k, (counts, Both(5, 3))), way, counts, slots, Both(5, 3))
    v_name = _repeated(twin, split(twin, v, (counts, Both(5, 3))), way, counts, slots, Both(5, 3))
    p = probabilities(twin, split(twin, q, q_sizes), twin.node("Transpose", [k_name], perm=[0, 1, 3, 2])[0], 5)
    finish(twin, merge(twin, twin.node("MatMul", [p, v_name])[0], v, _read(q_units, v_units, group), group))


def _read(queries: Units, values: Units, group: int) -> Units:
    """Return what the dims of each head are behind the values, which heads of a group share."""
    made = np.repeat(values.reshape(-1, 5), group, axis=0)
    made[(queries.reshape(-1, 5) == DEAD).all(axis=1)] = DEAD
    return made.ravel()


def test_queries_of_one_key(twin: Twin) -> None:
    """Multi-query attention without a copy: keys [batch, 1, dims, time] broadcast against all queries."""
    q_units, k_units, v_units = _grouped(twin, 1, 4, 0, 2)
    x = stream(twin)
    q, k, v = (twin.matmul(x, units) for units in (q_units, k_units, v_units))
    k_name = split(twin, k, (Both(1, 1), Both(5, 3)), (0, 2, 3, 1))
    p = probabilities(twin, split(twin, q, (Both(4, 2), Both(5, 3))), k_name, 5)
    y = twin.node("MatMul", [p, split(twin, v, (Both(1, 1), Both(5, 3)))])[0]
    finish(twin, merge(twin, y, v, _read(q_units, v_units, 4), 4))
