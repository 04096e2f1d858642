"""What layers that channels pass know of their output, need of their input, and which they are not."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxsqueeze.abstract.compact import aligned
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.operators.linear import beside
from onnxsqueeze.rules.contract import Refusal
from onnxsqueeze.rules.weight_view import Linear

OUT, IN, CHANNELS = 3, 4, 2
NUMBERS = st.sampled_from([-2.0, -0.5, 0.0, 0.0, 1.0, 3.0])


def layer(weight: Any, dtype: type = np.float32, axis: int = 1, **fields: Any) -> Linear:
    """Return the view of x [N, IN, CHANNELS] -> [N, OUT, CHANNELS] (or of axes further back), as of w @ x."""
    matrix = np.asarray(weight, dtype)[None, :, :, None]
    values: dict[str, Any] = {
        **{
            "data": "x",
            "weight": "w",
            "bias": "b",
            "position": 0,
            "data_axis": axis,
            "output_axis": axis,
            "matrix": matrix,
        },
        **{"zero_padded": False, "restore": lambda array: array},
    }
    return Linear(**values | fields)


def setting(lower: Any, upper: Any, bias: Any = None, rank: int = 3) -> Any:
    """Return a context in which x has these bounds [*, IN or 1, CHANNELS or 1]."""
    interval = Interval(np.asarray(lower, np.float64), np.asarray(upper, np.float64))
    stored = np.zeros(OUT) if bias is None else np.asarray(bias, np.float64)
    return SimpleNamespace(interval=lambda name: interval, rank=lambda name: rank, value=lambda name: stored)


NODE: Any = SimpleNamespace(operator="MatMul", inputs=("x", "w"), outputs=("y",), attributes={})


def bounded(context: Any, linear: Linear) -> tuple[Any, Any]:
    """Return the bounds of the output [OUT, CHANNELS]."""
    (interval,) = beside._forward(NODE, context, linear)
    assert interval.lower.ndim == interval.upper.ndim == 3
    return tuple(np.broadcast_to(bound, (1, OUT, CHANNELS))[0] for bound in (interval.lower, interval.upper))


def vertices(weight: Any, lower: Any, upper: Any, bias: Any) -> tuple[Any, Any]:
    """Return the least and the greatest of w @ x + b, element by element."""
    least, most = np.zeros((OUT, CHANNELS)), np.zeros((OUT, CHANNELS))
    for out in range(OUT):
        for channel in range(CHANNELS):
            for place in range(IN):
                factor, ends = weight[out, place], (lower[0, place, channel], upper[0, place, channel])
                products = [0.0, 0.0] if factor == 0 else [factor * end for end in ends]
                least[out, channel] += min(products)
                most[out, channel] += max(products)
    return least + bias[:, None], most + bias[:, None]


@settings(max_examples=80, deadline=None)
@given(
    weight=arrays(np.float64, (OUT, IN), elements=NUMBERS),
    bounds=arrays(np.float64, (2, 1, IN, CHANNELS), elements=NUMBERS),
    bias=arrays(np.float64, OUT, elements=NUMBERS),
    open_ends=arrays(np.int64, (1, IN, CHANNELS), elements=st.sampled_from([0, 0, 0, -1, 1])),
    scale=st.sampled_from([1.0, -2.0]),
)
def test_bounds_are_those_of_the_ends(weight: Any, bounds: Any, bias: Any, open_ends: Any, scale: float) -> None:
    """To rounding; a constant is made by constants alone, and never by what cancels."""
    lower, upper = bounds.min(axis=0), bounds.max(axis=0)
    lower, upper = np.where(open_ends < 0, -np.inf, lower), np.where(open_ends > 0, np.inf, upper)
    least, most = vertices(weight * scale, lower, upper, bias)
    low, high = bounded(setting(lower, upper, bias), layer(weight, scale=scale))
    assert (low <= least).all() and (high >= most).all()
    for found, expected in ((low, least), (high, most)):
        assert (np.isinf(found) == np.isinf(expected)).all()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    reads = (weight != 0)[:, :, None] & (lower != upper)
    fixed = ~reads.any(axis=1)
    terms = np.abs(weight * scale) @ np.where(np.isinf(lower[0]) | np.isinf(upper[0]), 0, np.abs(lower[0]))
    cancels = (np.abs(least) < 1e-9) & (terms + np.abs(bias)[:, None] > 0)
    assert ((low == high) == (fixed & ~cancels)).all()


def test_half_precision_rounds_more() -> None:
    lower, upper, weight = np.full((1, IN, CHANNELS), 1.0), np.full((1, IN, CHANNELS), 2.0), np.ones((OUT, IN))
    single, half = (bounded(setting(lower, upper), layer(weight, dtype)) for dtype in (np.float32, np.float16))
    assert 8 < single[1].max() < 8.001
    assert 8 + 8 * 2.0**-10 < half[1].max() < 9
    assert 4 > single[0].min() > 3.999
    assert 4 - 4 * 2.0**-10 > half[0].min() > 3


def test_what_is_alike_at_all_positions_is_read_at_each() -> None:
    """Bounds of length 1 along the axis that the layer reads count for all places of it."""
    low, high = bounded(
        setting(np.full((1, 1, CHANNELS), 1.0), np.full((1, 1, CHANNELS), 2.0)), layer(np.ones((OUT, IN)))
    )
    np.testing.assert_allclose([low, high], [np.full((OUT, CHANNELS), IN), np.full((OUT, CHANNELS), 2 * IN)], rtol=1e-4)


def test_the_axis_that_is_read_may_be_any() -> None:
    lower = np.arange(2.0 * CHANNELS * IN).reshape(2, CHANNELS, IN)
    weight = np.random.default_rng(0).standard_normal((OUT, IN))
    (found,) = beside._forward(NODE, setting(lower, lower), layer(weight, axis=2))
    expected = lower @ weight.astype(np.float32).T.astype(np.float64)
    np.testing.assert_allclose(found.lower, expected, rtol=1e-6)
    np.testing.assert_allclose(found.upper, expected, rtol=1e-6)


def test_a_matrix_may_have_more_axes_than_what_it_meets() -> None:
    """Its output has the leading ones as well."""
    context = setting(np.ones((IN, CHANNELS)), np.ones((IN, CHANNELS)))
    context.rank = {"x": 2, "y": 3}.get
    (found,) = beside._forward(NODE, context, layer(np.ones((OUT, IN)), data_axis=0))
    assert found.lower.shape == (1, 1, 1) and found.lower.item() == found.upper.item() == IN


@pytest.mark.parametrize(("most", "told"), [(12, True), (5, False)])
def test_of_large_tensors_only_zeros_are_told(most: int, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "_MOST_ELEMENTS", most)
    lower, upper = np.zeros((1, IN, 3)), np.zeros((1, IN, 3))
    lower[:, 1, 1], upper[:, 2, 2] = -1, 1
    (found,) = beside._forward(NODE, setting(lower, upper, [1.0, 2.0, 4.0]), layer(np.ones((OUT, IN))))
    low, high = (np.broadcast_to(bound, (1, OUT, 3))[0] for bound in (found.lower, found.upper))
    if told:
        np.testing.assert_allclose(low[:, 1], [0, 1, 3], atol=1e-4)
        np.testing.assert_allclose(high[:, 2], [2, 3, 5], atol=1e-4)
        assert (low[:, 0] == high[:, 0]).all()
    else:
        assert low[:, 0].tolist() == [1.0] * OUT and high[:, 0].tolist() == [4.0] * OUT
        assert np.isneginf(low[:, 1:]).all() and np.isposinf(high[:, 1:]).all()


@pytest.mark.parametrize("shape", [(9, 2), (2, 9)])
def test_large_is_the_larger_side(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "_MOST_ELEMENTS", 8)
    (found,) = beside._forward(
        NODE, setting(np.ones((1, shape[1], 1)), np.ones((1, shape[1], 1)), np.zeros(shape[0])), layer(np.ones(shape))
    )
    assert np.isneginf(found.lower).all() and np.isposinf(found.upper).all()


REFUSED: dict[str, tuple[dict[str, Any], Sequence[int]]] = {
    "groups": ({"matrix": np.ones((2, 1, 1, 1))}, ()),
    "taps": ({"matrix": np.ones((1, 2, 2, 2))}, ()),
    "padded": ({"zero_padded": True}, ()),
    "strides": ({}, (1, 2)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_kernels_that_slide_are_refused(why: str) -> None:
    fields, strides = REFUSED[why]
    node: Any = SimpleNamespace(operator="Conv", attributes={"strides": strides} if strides else {})
    found = beside._applies(lambda node, context: layer(np.ones((OUT, IN)), **fields), node, setting(0, 0))
    assert isinstance(found, Refusal) and "slides over channels" in found.detail


@pytest.mark.parametrize("strides", [(), (1, 1)])
def test_other_layers_are_not(strides: Sequence[int]) -> None:
    node: Any = SimpleNamespace(operator="Conv", attributes={"strides": strides} if strides else {})
    assert beside._applies(lambda node, context: layer(np.ones((OUT, IN))), node, setting(0, 0)) is None
    refusal = Refusal(beside.Reason.NOT_FINITE)
    assert beside._applies(lambda node, context: refusal, node, setting(0, 0)) is refusal


def test_a_needed_channel_is_read_at_all_places_and_stays_where_it_is_constant() -> None:
    lower, upper = np.zeros((1, IN, 4)), np.zeros((1, IN, 4))
    upper[:, :, 2:] = 1
    wanted = np.zeros((1, OUT, 4), dtype=bool)
    wanted[0, 1, [0, 2]] = True
    demands = beside._need(NODE, setting(lower, upper), layer(np.ones((OUT, IN))), [wanted])
    assert demands[1] is None and demands[0] is not None and demands[0].hold is not None
    assert demands[0].live.tolist() == [[[True, False, True, False]]]
    assert np.broadcast_to(demands[0].hold, (1, IN, 4))[0, 0].tolist() == [True, False, False, False]


def test_what_it_needs_has_the_axes_of_what_it_reads() -> None:
    context = setting(np.zeros((IN, 2)), np.ones((IN, 2)), rank=2)
    wanted = np.array([[[True, False]] * OUT])
    demands = beside._need(NODE, context, layer(np.ones((OUT, IN)), data_axis=0), [wanted])
    assert demands[0] is not None and demands[0].live.tolist() == [[True, False]]


def test_constants_that_cancel_are_none() -> None:
    """In another order of summation they may leave a rest, of which a step function would make something else."""
    ones = np.ones((1, IN, CHANNELS))
    low, high = bounded(setting(ones, ones), layer([[1, -1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]))
    assert (low[0] < 0).all() and (high[0] > 0).all()
    assert (low[1:] == high[1:]).all() and low[1:, 0].tolist() == [2, 0]


def test_a_bias_that_differs_from_place_to_place_makes_no_constant() -> None:
    ones, table = np.ones((1, IN, CHANNELS)), np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 4.0]])
    low, high = bounded(setting(ones, ones, table), layer(np.ones((OUT, IN))))
    np.testing.assert_allclose([low[:, 0], high[:, 0]], [[5, 6, 8], [5, 7, 8]], rtol=1e-4)
    assert (low == high)[:, 0].tolist() == [True, False, True]


def test_classes_get_leading_axes() -> None:
    assert aligned(np.zeros((2, 3), np.int64), 4).shape == (1, 1, 2, 3)
