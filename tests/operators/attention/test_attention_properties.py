"""Attention masked at random keeps its function, whatever the way in which it was exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from tests.support.builders import LIVE, Both, Tensor
from tests.support.extent import part
from tests.support.planted.checks import assert_equal_outputs, minimize, size, weights
from tests.support.planted.heads import split
from tests.support.planted.layers import Twin
from tests.support.planted.opsets import OPSETS
from tests.support.planted.properties import PROPERTY

HEADS, DIMS = 4, 4


def _project(twin: Twin, x: Tensor, order: tuple[int, ...] = (0, 2, 1, 3), count: int = HEADS) -> str:
    y = twin.matmul(x, np.full(count * DIMS, LIVE), add=bool(twin.random.integers(2)))
    return split(twin, y, (Both(count, count), Both(DIMS, DIMS)), order)


def _merged(twin: Twin, x: Tensor, y: str) -> Tensor:
    y = twin.node("Transpose", [y], perm=[0, 2, 1, 3])[0]
    name = twin.node("Reshape", [y, twin.integers(0, -1, HEADS * DIMS)])[0]
    kinds = np.full(HEADS * DIMS, LIVE)
    return replace(x, name=name, shape=(1, 8, HEADS * DIMS), kinds=kinds, fill=np.full(len(kinds), np.nan))


def _transposed(twin: Twin, name: str) -> str:
    return twin.node("Transpose", [name], perm=[0, 1, 3, 2])[0]


def _plain(twin: Twin, scores: str) -> str:
    return scores


def _causal(twin: Twin, scores: str) -> str:
    return twin.node("Where", [twin.parameter(np.tri(8), np.bool_), scores, twin.parameter(-np.inf)])[0]


def _biased(twin: Twin, scores: str) -> str:
    """Every other time by a matrix for each head."""
    table = twin.random.standard_normal((int(twin.random.choice([1, HEADS])), 8, 8))
    return twin.node("Add", [scores, twin.parameter(table)])[0]


def _scaled(twin: Twin, scores: str) -> str:
    return twin.node("Mul", [scores, twin.parameter(twin.random.uniform(0.5, 2, (HEADS, 1, 1)))])[0]


def _capped(twin: Twin, scores: str) -> str:
    """Gemma: what moves a row does not cancel any more."""
    return twin.node("Tanh", [scores])[0]


def _guarded(twin: Twin, scores: str) -> str:
    """Whole rows are masked, and guarded against NaN."""
    keep = twin.parameter(np.arange(8)[:, None] % 3 > np.zeros(8), np.bool_)
    scores = twin.node("Where", [keep, scores, twin.parameter(-np.inf)])[0]
    p = twin.node("Softmax", [scores], axis=3)
    return twin.node("Where", [*twin.node("IsNaN", p), twin.parameter(0.0), *p])[0]


CHANGES: tuple[Callable[[Twin, str], str], ...] = (_plain, _causal, _biased, _scaled, _capped, _guarded)


def _many_heads(twin: Twin, x: Tensor, scores: Callable[[str, str], str]) -> Tensor:
    p = scores(_project(twin, x), _project(twin, x, (0, 2, 3, 1)))
    return _merged(twin, x, twin.node("MatMul", [p, _project(twin, x)])[0])


def _one_key(twin: Twin, x: Tensor, scores: Callable[[str, str], str]) -> Tensor:
    p = scores(_project(twin, x), _project(twin, x, (0, 2, 3, 1), count=1))
    return _merged(twin, x, twin.node("MatMul", [p, _project(twin, x, count=1)])[0])


def _groups(twin: Twin, x: Tensor, scores: Callable[[str, str], str]) -> Tensor:
    way = str(twin.random.choice(["Expand", "Tile", "Gather"]))

    def repeated(name: str) -> str:
        if way == "Gather":
            return twin.node("Gather", [name, twin.parameter([0, 0, 1, 1], np.int64)], axis=1)[0]
        y = twin.node("Reshape", [name, twin.integers(0, 2, 1, -1, DIMS)])
        counts = (1, 1, 2, 1, 1) if way == "Tile" else (1, 2, 2, 1, DIMS)
        y = twin.node(way, [*y, twin.integers(*counts)])
        return twin.node("Reshape", [*y, twin.integers(0, HEADS, -1, DIMS)])[0]

    k, v = (repeated(_project(twin, x, count=2)) for _ in range(2))
    p = scores(_project(twin, x), _transposed(twin, k))
    return _merged(twin, x, twin.node("MatMul", [p, v])[0])


def _fused(twin: Twin, x: Tensor, scores: Callable[[str, str], str]) -> Tensor:
    y = twin.matmul(x, np.full(3 * HEADS * DIMS, LIVE))
    if twin.random.integers(2):
        z = twin.node("Reshape", [y, twin.integers(0, -1, 3, HEADS, DIMS)])
        z = twin.node("Transpose", z, perm=[2, 0, 3, 1, 4])
    else:  # GPT-NeoX
        z = twin.node("Reshape", [y, twin.integers(0, -1, HEADS, 3, DIMS)])
        z = twin.node("Transpose", z, perm=[3, 0, 2, 1, 4])
    q, k, v = (twin.node("Gather", [*z, twin.parameter(n, np.int64)], axis=0)[0] for n in range(3))
    return _merged(twin, x, twin.node("MatMul", [scores(q, _transposed(twin, k)), v])[0])


def _rotary(twin: Twin, x: Tensor, scores: Callable[[str, str], str]) -> Tensor:
    angles = twin.random.uniform(0, 6, (8, DIMS // 2))
    tables = [twin.parameter(np.tile(f(angles), 2)) for f in (np.cos, np.sin)]

    def rotated(y: str) -> str:
        bounds = ((0, DIMS // 2), (DIMS // 2, DIMS))
        first, second = (twin.node("Slice", [y, *map(twin.integers, (*ends, 3))])[0] for ends in bounds)
        turned = twin.node("Concat", [twin.node("Neg", [second])[0], first], axis=3)[0]
        return twin.node("Add", [twin.node("Mul", [a, b])[0] for a, b in ((y, tables[0]), (turned, tables[1]))])[0]

    p = scores(rotated(_project(twin, x)), _transposed(twin, rotated(_project(twin, x))))
    return _merged(twin, x, twin.node("MatMul", [p, _project(twin, x)])[0])


def _linear(twin: Twin, x: Tensor, scores: Callable[[str, str], str]) -> Tensor:
    """Linear attention: queries times what keys and values sum to."""
    memory = twin.node("MatMul", [_project(twin, x, (0, 2, 3, 1)), _project(twin, x)])
    return _merged(twin, x, twin.node("MatMul", [_project(twin, x), *memory])[0])


def _efficient(twin: Twin, x: Tensor, scores: Callable[[str, str], str]) -> Tensor:
    """Linear attention with queries normalised over their dims, which then stay together."""
    memory = twin.node("MatMul", [_project(twin, x, (0, 2, 3, 1)), _project(twin, x)])
    q = twin.node("Softmax", [_project(twin, x)], axis=3)
    return _merged(twin, x, twin.node("MatMul", [*q, *memory])[0])


KINDS = (_many_heads, _one_key, _groups, _fused, _rotary, _linear, _efficient)


def mask(model: onnx.ModelProto, share: float, seed: int) -> None:
    """Set whole heads, single rows and columns of the matrices to zero, most of them in the same places, and biases."""
    random = np.random.default_rng(seed)
    dims, head = random.random(DIMS) < share * random.random(), random.random(HEADS) < share * random.random()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.data_type != TensorProto.FLOAT or values.ndim == 0 or values.shape[-1] == 8:
            continue
        for axis in range(values.ndim):
            gone = random.random(values.shape[axis]) < share * random.random()
            if values.shape[axis] % DIMS == 0 and values.ndim == 2 and random.random() < 0.7:
                heads = np.resize(head | (random.random(HEADS) < 0.2), values.shape[axis] // DIMS)
                gone = np.tile(dims, len(heads)) | np.repeat(heads, DIMS)
            if values.ndim == 2 or random.random() < 0.4:
                values[(slice(None),) * axis + (gone,)] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@given(
    st.sampled_from(KINDS),
    st.sampled_from(CHANGES),
    st.floats(0.2, 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from(OPSETS),
)
@settings(PROPERTY, max_examples=part(120))
def test_masked_attention_keeps_its_function(
    kind: Callable[[Twin, Tensor, Callable[[str, str], str]], Tensor],
    change: Callable[[Twin, str], str],
    share: float,
    seed: int,
    opset: int,
) -> None:
    """Equal outputs and signature, no more weights than before; a second run removes nothing more."""
    twin = Twin(seed, opset)
    x = twin.matmul(twin.input("N", 8, 6, axis=2), twin.units(live=6))

    def scores(q: str, k: str) -> str:
        found = twin.node("Mul", [*twin.node("MatMul", [q, k]), twin.parameter(0.5)])[0]
        found = change(twin, found)
        return found if change is _guarded else twin.node("Softmax", [found], axis=3)[0]

    y = twin.op("Add", x, twin.matmul(kind(twin, x, scores), x.kinds))
    model = twin.pair(twin.matmul(y, twin.units(live=3))).wide
    mask(model, share, seed)
    narrowed = minimize(model).model
    assert_equal_outputs(model, narrowed, tolerance=1e-4, double=False)  # outputs may be far below what is summed
    once = minimize(model, narrowing=False).model
    assert_equal_outputs(model, once, tolerance=1e-4, double=False)
    assert size(minimize(narrowed).model) <= size(narrowed) <= size(once)
    again = minimize(once, narrowing=False).model
    if kind is _linear:  # what its heads keep of a sum over keys must be the same places, which once is one of them
        assert size(again) <= size(once)
    else:
        assert weights(again) == weights(once)
