"""What attention must not lose: keys, values and heads that only look as if they could leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.builders import CONST, DEAD, LIVE, REPRESENTATIVE, SPARE, ZERO, Both
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, weights
from tests.support.planted.heads import Heads, Scores, attend, finish, heads, merge, split, stream
from tests.support.planted.layers import Twin


def _constant_key(twin: Twin, stays: bool) -> Heads:
    """Return heads of which every first query meets a key that is the same everywhere."""
    planted = heads(twin, 2, live=4, gone=0)
    first = np.arange(8) % 4 == 0
    q = np.where(first & ~np.full(8, stays), DEAD, LIVE)
    return replace(planted, q=q, k=np.where(first, REPRESENTATIVE if stays else CONST, LIVE))


def _masked(filler: float) -> Scores:
    def change(twin: Twin, scores: str) -> str:
        keep = twin.input("N", 1, "T", "T", elem_type=TensorProto.BOOL)
        return twin.node("Where", [keep, scores, twin.parameter(filler)])[0]

    return change


def _capped(twin: Twin, scores: str) -> str:
    return twin.node("Tanh", [scores])[0]


def _weighted(twin: Twin, scores: str) -> str:
    """Other factors for other keys."""
    factors = twin.node("Cast", [twin.input("N", 1, 1, "T", elem_type=TensorProto.BOOL)], to=TensorProto.FLOAT)
    return twin.node("Mul", [scores, *factors])[0]


def _clipped(twin: Twin, scores: str) -> str:
    return twin.node("Max", [scores, twin.parameter(-0.1)])[0]


def _copied(twin: Twin, scores: str) -> str:
    return twin.node("Identity", [twin.node("Sub", [scores, twin.input("N", 1, 1, "T")])[0]])[0]


@pytest.mark.parametrize("change", [_masked(-1.0), _masked(-1e4), _capped, _weighted, _clipped])
def test_constant_key_stays_where_it_does_not_cancel(twin: Twin, change: Scores) -> None:
    finish(twin, attend(twin, stream(twin), _constant_key(twin, stays=True), change=change))


@pytest.mark.parametrize("change", [_masked(-1e9), _masked(-np.inf), _copied, None])
def test_constant_key_leaves_where_it_cancels(twin: Twin, change: Scores | None) -> None:
    finish(twin, attend(twin, stream(twin), _constant_key(twin, stays=False), change=change))


def test_constant_key_stays_where_scores_are_seen(twin: Twin) -> None:
    seen = []

    def change(twin: Twin, scores: str) -> str:
        seen.append(scores)
        return twin.node("Mul", [scores, twin.parameter(0.7)])[0]

    y = twin.matmul(attend(twin, stream(twin), _constant_key(twin, stays=True), change=change), twin.units(live=4))
    model = twin.pair(y).wide
    model.graph.output.append(helper.make_tensor_value_info(seen[0], TensorProto.FLOAT, ["N", 2, "T", "T"]))
    found = minimize(model).model
    assert_equal_outputs(model, found)
    assert (5, 8) in weights(found)


@pytest.mark.parametrize("kind", [ZERO, CONST])
def test_constant_values_where_rows_may_be_masked_altogether(twin: Twin, kind: str) -> None:
    """A guard gives 0 for such a row, so that only a value of 0 comes out as itself."""
    planted = heads(twin, 2, live=3, gone=2)
    units = np.where(planted.v == LIVE, LIVE, kind if kind == ZERO else REPRESENTATIVE)
    x, keep = twin.input("N", 7, 6, axis=2), twin.parameter(np.arange(7)[:, None] > np.full(7, 2), np.bool_)
    q, k, v = (twin.matmul(x, part) for part in (planted.q, planted.k, units))
    k_name = split(twin, k, planted.sizes(planted.k), (0, 2, 3, 1))
    scores = twin.node("MatMul", [split(twin, q, planted.sizes(planted.q)), k_name])[0]
    scores = twin.node("Where", [keep, scores, twin.parameter(-np.inf)])
    p = twin.node("Softmax", scores, axis=3)
    p = twin.node("Where", [*twin.node("IsNaN", p), twin.parameter(0.0), *p])
    y = merge(twin, twin.node("MatMul", [*p, split(twin, v, planted.sizes(units))])[0], v, units)
    finish(twin, y if kind == ZERO else replace(y, kinds=np.full(10, LIVE), fill=np.full(10, np.nan)), narrowing=False)


@pytest.mark.parametrize("masked", ["nothing", "above"])
def test_guard_that_never_takes_hold(twin: Twin, masked: str) -> None:
    """Every row has a key that is not masked, so that constant values come out as they are."""
    planted = heads(twin, 2, live=3, gone=2)
    x, units = twin.input("N", 7, 6, axis=2), np.where(planted.v == LIVE, LIVE, CONST)
    q, k, v = (twin.matmul(x, part) for part in (planted.q, planted.k, units))
    k_name = split(twin, k, planted.sizes(planted.k), (0, 2, 3, 1))
    scores = twin.node("MatMul", [split(twin, q, planted.sizes(planted.q)), k_name])
    if masked == "above":
        scores = twin.node("Where", [twin.parameter(np.tri(7), np.bool_), *scores, twin.parameter(-np.inf)])
    p = twin.node("Softmax", scores, axis=3)
    p = twin.node("Where", [*twin.node("IsNaN", p), twin.parameter(0.0), *p])
    finish(twin, merge(twin, twin.node("MatMul", [*p, split(twin, v, planted.sizes(units))])[0], v, units))


def test_softmax_over_the_heads_keeps_them(twin: Twin) -> None:
    """Though nothing reads what the first one gives."""
    planted = heads(twin, 3, live=4, gone=0)
    x = stream(twin)
    q, k, v = (twin.matmul(x, part) for part in (planted.q, planted.k, np.full(12, LIVE)))
    scores = twin.node(
        "MatMul", [split(twin, q, (Both(3, 3), Both(4, 4))), split(twin, k, (Both(3, 3), Both(4, 4)), (0, 2, 3, 1))]
    )
    p = twin.node("Softmax", scores, axis=1)
    y = merge(
        twin, twin.node("MatMul", [*p, split(twin, v, (Both(3, 3), Both(4, 4)))])[0], v, np.full(12, LIVE), dims=4
    )
    model = twin.pair(twin.matmul(replace(y, kinds=np.where(np.arange(12) < 4, SPARE, LIVE)), twin.units(live=4))).wide
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert any("Softmax over axis 1" in reason for reason in result.report.stayed)
    assert weights(result.model).count((5, 12)) == 3


# -- other products --------------------------------------------------------------------------------------------------


def test_linear_attention(twin: Twin) -> None:
    """Keys and values are summed over time to [heads, dims, dims], of which all heads keep the same."""
    planted = heads(twin, 3, dead=1, alike=True)
    gone = np.array([(ZERO, DEAD), (DEAD, ZERO)])[np.arange(len(planted.q)) % 2]
    q = np.where(planted.q == LIVE, LIVE, gone[:, 0])
    k = np.where(planted.k == LIVE, LIVE, gone[:, 1])
    v_units = np.where(planted.v == CONST, ZERO, planted.v)
    x = stream(twin)
    q_name, k_name, v = (twin.matmul(x, units) for units in (q, k, v_units))
    sizes = planted.sizes(planted.q)
    memory = twin.node("MatMul", [split(twin, k_name, sizes, (0, 2, 3, 1)), split(twin, v, planted.sizes(v_units))])
    y = twin.node("MatMul", [split(twin, q_name, sizes), *memory])[0]
    finish(twin, merge(twin, y, v, v_units))


@pytest.mark.parametrize("way", ["plain", "dots", "implicit"])
def test_einsum(way: str) -> None:
    """Scores and averages without a transposition of their operands."""
    twin = Twin(3, 17)
    planted = heads(twin, 3, dead=1)
    x = stream(twin)
    q, k, v = (twin.matmul(x, units) for units in (planted.q, planted.k, planted.v))
    names = [
        twin.node("Reshape", [y, twin.integers(0, -1, *planted.sizes(units))])[0]
        for y, units in ((q, planted.q), (k, planted.k), (v, planted.v))
    ]
    pairs = {
        "plain": ("bthd,bshd->bhts", "bhts,bshd->bthd"),
        "dots": ("...thd, ...shd -> ...hts", "...hts,...shd->...thd"),
        "implicit": ("azcd,aycd->acyz", "acyz,azcd->aycd"),
    }[way]
    operands = names[:2] if way != "implicit" else names[1::-1]
    scores = twin.node("Einsum", operands, equation=pairs[0])
    p = twin.node("Softmax", twin.node("Mul", [*scores, twin.parameter(0.4)]), axis=3)
    y = twin.node("Einsum", [*p, names[2]], equation=pairs[1])
    width = Both(len(planted.v), int((planted.v == LIVE).sum()))
    name = twin.node("Reshape", [*y, twin.integers(0, -1, width)])[0]
    y = replace(v, name=name, fill=np.where(planted.v == DEAD, np.nan, v.fill))
    assert_recovers(twin.pair(twin.matmul(y, twin.units(live=4))))


@pytest.mark.parametrize("equation", ["btc,cd->btd", "btc,dc->btd", "btc,cd->dbt", "dc,...c->...d"])
def test_einsum_with_a_matrix(equation: str) -> None:
    twin = Twin(5, 17)
    x, units = twin.input("N", "T", 6, axis=2), twin.units(live=5, dead=3)
    matrix = twin.random.standard_normal((6, len(units)))
    columns = Both(matrix, matrix[:, units == LIVE])
    if "dc" in equation:
        columns = Both(columns.wide.T, columns.small.T)
    weight = twin.parameter(columns)
    first = equation.startswith("dc")
    axis = 0 if equation.endswith("dbt") else 2
    y = twin.op("Einsum", *([weight, x] if first else [x, weight]), equation=equation, units=units, channels=axis)
    y = twin.op("Einsum", y, equation="dbt->btd", channels=2, moves=True) if axis == 0 else y
    finish(twin, twin.op("Tanh", y))


@pytest.mark.parametrize("seed", range(3))
def test_einsum_that_merges_heads(seed: int) -> None:
    """A constant of [heads, dims, channels] leaves with what it is multiplied by; heads keep the same dims."""
    twin = Twin(seed, 17)
    planted = heads(twin, 3, dead=1, alike=True)
    units = np.where(planted.q == LIVE, LIVE, ZERO)
    x = twin.matmul(stream(twin), units)
    y = twin.node("Reshape", [x, twin.integers(0, -1, *planted.sizes(units))])
    kept = (units == LIVE).reshape(3, -1)
    table = twin.random.standard_normal((3, 5, 6))
    small = table[kept.any(axis=1)][:, kept.any(axis=0)]
    name = twin.node("Einsum", [*y, twin.parameter(Both(table, small))], equation="bthd,hde->bte")[0]
    kinds = np.full(6, LIVE)
    finish(twin, replace(x, name=name, shape=(1, 8, 6), kinds=kinds, fill=np.full(6, np.nan)))


def test_einsum_that_is_not_understood_is_named() -> None:
    twin = Twin(5, 17)
    x = twin.matmul(twin.input("N", 5, 6, axis=2), np.array([LIVE, LIVE, LIVE, DEAD, DEAD]))
    y = twin.node("Einsum", [x], equation="bii->bi")[0]
    y_tensor = replace(x, name=y, shape=(1, 5), axis=1, kinds=np.full(5, LIVE), fill=np.full(5, np.nan))
    result = minimize(twin.pair(twin.matmul(y_tensor, twin.units(live=3))).wide)
    assert any("Einsum bii->bi" in reason for reason in result.report.stayed)
