"""Planted attention with rotary position embedding: pairs of dims leave from all heads and from the tables at once."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.builders import CONST, DEAD, LIVE, ZERO, Both, Units
from tests.support.planted.checks import assert_recovers
from tests.support.planted.heads import Heads, finish, heads, merge, probabilities, split, stream
from tests.support.planted.layers import Twin

HALF = 4  # pairs of dims before any leave
PAIRS = ((ZERO, DEAD), (DEAD, ZERO), (ZERO, CONST))  # a constant key is rotated, so that it stays where it is read
FREQUENCIES = 1 / 10 ** (np.arange(HALF) / HALF)


def _planted(twin: Twin, count: int, kept: np.ndarray, dead: int = 0) -> Heads:
    drawn = heads(twin, count, live=3, gone=2 * HALF - 3, dead=dead)
    lost = (drawn.v.reshape(count, -1) == DEAD).all(axis=1)
    q, k = np.empty((2, count, 2 * HALF), dtype=object)
    for place in range(HALF):
        pair = (LIVE, LIVE) if kept[place] else PAIRS[twin.random.integers(len(PAIRS))]
        for half in (0, HALF):
            q[:, place + half], k[:, place + half] = pair
    q[lost], k[lost] = DEAD, DEAD
    return Heads(count, q.ravel().astype(str), k.ravel().astype(str), drawn.v)


def _tables(twin: Twin, way: str, kept: np.ndarray) -> list[str]:
    """Return cosines and sines, [batch or 1, 1, time, dims]."""
    doubled = np.tile(kept, 2)
    if way == "constant":
        angles = np.tile(np.outer(np.arange(7), FREQUENCIES), 2)[None, None]
        return [twin.parameter(Both(f(angles), f(angles)[..., doubled])) for f in (np.cos, np.sin)]
    column = FREQUENCIES[None, :, None]
    frequencies = twin.parameter(Both(column, column[:, kept]))
    positions = twin.input("N", "T", elem_type=TensorProto.INT64)
    if way == "expanded":
        batch = twin.node("Shape", [positions])[0]
        batch = twin.node("Slice", [batch, *map(twin.integers, (0, 1, 0))])[0]
        target = twin.node("Concat", [batch, twin.integers(Both(HALF, int(kept.sum())), 1)], axis=0)[0]
        frequencies = twin.node("Expand", [frequencies, target])[0]
    row = twin.node("Reshape", [positions, twin.integers(0, 1, -1)])
    row = twin.node("Cast", row, to=TensorProto.FLOAT)
    angles = twin.node("Transpose", twin.node("MatMul", [frequencies, *row]), perm=[0, 2, 1])
    angles = twin.node("Concat", [*angles, *angles], axis=2)
    tables = [twin.node(op, angles)[0] for op in ("Cos", "Sin")]
    return [_unsqueeze(twin, table) for table in tables]


def _unsqueeze(twin: Twin, name: str) -> str:
    if twin.opset >= 13:
        return twin.node("Unsqueeze", [name, twin.integers(1)])[0]
    return twin.node("Unsqueeze", [name], axes=[1])[0]


def _rotated(twin: Twin, x: str, tables: list[str], half: Both, by: str) -> str:
    """Return x cos + (-x2, x1) sin."""
    if by == "Slice":
        bounds = [(0, half), (half, 2**31)]
        first, second = (twin.node("Slice", [x, *map(twin.integers, (*ends, 3))])[0] for ends in bounds)
    elif twin.opset < 13:
        first, second = twin.node("Split", [x], 2, axis=3)
    else:
        first, second = twin.node("Split", [x, twin.integers(half, half)], 2, axis=3)
    turned = twin.node("Concat", [twin.node("Neg", [second])[0], first], axis=3)[0]
    parts = [twin.node("Mul", [a, b])[0] for a, b in ((x, tables[0]), (turned, tables[1]))]
    return twin.node("Add", parts)[0]


@pytest.mark.parametrize("by", ["Slice", "Split"])
@pytest.mark.parametrize("way", ["constant", "computed", "expanded"])
def test_pairs_leave(twin: Twin, way: str, by: str) -> None:
    kept = twin.random.permutation([True, True, False, False])
    planted = _planted(twin, 3, kept, dead=1)
    x = stream(twin) if way != "constant" else twin.input("N", 7, 6, axis=2)
    q, k, v = (twin.matmul(x, units) for units in (planted.q, planted.k, planted.v))
    tables, half = _tables(twin, way, kept), Both(HALF, 2)
    q_name = _rotated(twin, split(twin, q, planted.sizes(planted.q)), tables, half, by)
    k_name = _rotated(twin, split(twin, k, planted.sizes(planted.k)), tables, half, by)
    p = probabilities(twin, q_name, twin.node("Transpose", [k_name], perm=[0, 1, 3, 2])[0], 2 * HALF)
    y = twin.node("MatMul", [p, split(twin, v, planted.sizes(planted.v))])[0]
    finish(twin, merge(twin, y, v, planted.v, dims=2 * HALF))


def test_constant_key_that_is_rotated_stays(twin: Twin) -> None:
    """It depends on the position, so that it does not cancel."""
    kept = np.full(HALF, True)
    planted = _planted(twin, 1, kept)
    k_units: Units = np.where(np.arange(2 * HALF) % 3 == 0, "rep", LIVE)  # a constant that the small network has too
    x = stream(twin)
    q, k, v = (twin.matmul(x, units) for units in (planted.q, k_units, planted.v))
    tables, sizes = _tables(twin, "computed", kept), (Both(1, 1), Both(2 * HALF, 2 * HALF))
    q_name, k_name = (_rotated(twin, split(twin, y, sizes), tables, Both(HALF, HALF), "Slice") for y in (q, k))
    p = probabilities(twin, q_name, twin.node("Transpose", [k_name], perm=[0, 1, 3, 2])[0], 2 * HALF)
    y = twin.node("MatMul", [p, split(twin, v, planted.sizes(planted.v))])[0]
    assert_recovers(twin.pair(twin.matmul(merge(twin, y, v, planted.v, dims=8), twin.units(live=4))), narrowing=False)
