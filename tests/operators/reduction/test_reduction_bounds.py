"""What reductions know of their output and need of their input, element by element, against what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.registry import rule_for

SHAPE = (2, 3, 2)
COMPUTED = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceL1": lambda x, **rest: np.sum(np.abs(x), **rest),
    "ReduceL2": lambda x, **rest: np.sqrt(np.sum(x * x, **rest)),
    "ReduceSumSquare": lambda x, **rest: np.sum(x * x, **rest),
    "ReduceProd": np.prod,
    "ReduceLogSumExp": lambda x, **rest: np.log(np.sum(np.exp(x), **rest)),
    "ReduceLogSum": lambda x, **rest: np.log(np.abs(np.sum(x, **rest)) + 1e-9),
}
LINEAR, NORMS = ("ReduceMean", "ReduceSum"), ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
NUMBERS = st.sampled_from([-2.0, -1.0, 0.0, 0.0, 1.0, 3.0])
BOUNDS = arrays(np.float64, (2, *SHAPE), elements=NUMBERS)
AXES = st.sampled_from([(1,), (0, 2), (-1,), (0, 1, 2), (1, -2)])


class Lone:
    """A reduction by itself, of whose input anything may be said."""

    def __init__(self, op: str, axes: Sequence[int], keepdims: int = 1, dims: Sequence[Any] = SHAPE) -> None:
        inner = [axis % len(dims) for axis in axes]
        left = [dim for axis, dim in enumerate(dims) if axis not in inner]
        made = [1 if axis in inner else dim for axis, dim in enumerate(dims)] if keepdims else left
        graph = helper.make_graph(
            [helper.make_node(op, ["x", "axes"], ["y"], keepdims=keepdims)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
            [numpy_helper.from_array(np.array(axes), "axes")],
        )
        analysis = analyse(load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)))
        self.context, self.node, self.axes = analysis.context, analysis.graph.nodes[0], tuple(sorted(set(inner)))
        self.rule = rule_for(self.node)

    def suppose(self, lower: Any, upper: Any, told: Sequence[int] = SHAPE) -> Lone:
        """Let bounds hold for the input, of which elements are told apart."""
        self.context.intervals["x"] = Interval(np.asarray(lower, float), np.asarray(upper, float))
        self.context.elements.ids["x"] = self.context.elements.fresh(tuple(told))
        return self

    def bounds(self) -> tuple[Any, Any]:
        (interval,) = self.rule.forward(self.node, self.context)
        return interval.lower, interval.upper

    def needs(self, wanted: Any) -> tuple[Any, Any]:
        demand = self.rule.need(self.node, self.context, [np.asarray(wanted)])[0]
        assert demand is not None
        shape = SHAPE
        hold = np.zeros(shape, bool) if demand.hold is None else np.broadcast_to(demand.hold, shape)
        return np.broadcast_to(demand.live, shape), hold


@settings(max_examples=60, deadline=None)
@given(op=st.sampled_from(sorted(COMPUTED)), axes=AXES, keepdims=st.integers(0, 1), bounds=BOUNDS, data=st.data())
def test_bounds_hold_and_are_tight(op: str, axes: Any, keepdims: int, bounds: Any, data: st.DataObject) -> None:
    lower, upper = bounds.min(axis=0), bounds.max(axis=0)
    lone = Lone(op, axes, keepdims).suppose(lower, upper)
    low, high = lone.bounds()
    compute, options = COMPUTED[op], {"axis": lone.axes, "keepdims": bool(keepdims)}
    ends = data.draw(arrays(bool, SHAPE))
    value = compute(np.where(ends, lower, upper), **options)
    assert low.shape == high.shape == value.shape
    slack = 1e-4 * (1 + np.abs(value))
    if op != "ReduceLogSum":
        assert (low <= value + slack).all() and (value <= high + slack).all()
    constant = (lower == upper).all(axis=lone.axes, keepdims=bool(keepdims))
    if op in ("ReduceSum", "ReduceMax", "ReduceMin"):
        np.testing.assert_allclose(low, compute(lower, **options), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(high, compute(upper, **options), rtol=1e-4, atol=1e-4)
    elif op == "ReduceMean":
        assert (low >= np.where(constant, value - slack, lower.min(**options))).all()
        assert (high <= np.where(constant, value + slack, upper.max(**options))).all()
    elif op in NORMS:
        assert (low >= 0).all()
    zeros = (lower == 0) & (upper == 0)
    if op in NORMS:
        assert ((low == 0) & (high == 0) == zeros.all(**options)).all()
    if op == "ReduceProd":
        assert ((low == high) == zeros.any(**options)).all()
    if op not in (*NORMS, "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
        assert np.isinf(low).all() and np.isinf(high).all()
    if op in ("ReduceSum", "ReduceMean"):
        assert ((low == high) <= constant).all() and (constant <= (low == high)).all()


@settings(max_examples=80, deadline=None)
@given(op=st.sampled_from(sorted(COMPUTED)), axes=AXES, keepdims=st.integers(0, 1), bounds=BOUNDS, data=st.data())
def test_what_may_go_makes_no_difference(op: str, axes: Any, keepdims: int, bounds: Any, data: st.DataObject) -> None:
    """Leaving out constants that need not stay, and putting back what a mean or a sum can add, gives what was."""
    lower, upper = bounds.min(axis=0), bounds.max(axis=0)
    lone = Lone(op, axes, keepdims).suppose(lower, upper)
    options = {"axis": lone.axes, "keepdims": bool(keepdims)}
    wanted = data.draw(arrays(bool, COMPUTED[op](lower, **options).shape))
    live, hold = lone.needs(wanted)
    kept = wanted if keepdims else np.expand_dims(wanted, lone.axes)
    assert (live == np.broadcast_to(kept, SHAPE)).all()
    constant = lower == upper
    assert not (hold & ~constant).any() and not (hold & ~live).any()
    gone = constant & ~hold
    x = np.where(data.draw(arrays(bool, SHAPE)), lower, upper)
    expected = COMPUTED[op](x, **options)
    if op in LINEAR:
        assert not hold.any()
    elif op in ("ReduceMax", "ReduceMin"):
        left = np.where(gone, -np.inf if op == "ReduceMax" else np.inf, x)
        assert (COMPUTED[op](left, **options) == expected)[wanted].all()
        assert (hold.sum(**options) <= 1).all()
        sign = 1 if op == "ReduceMax" else -1
        floor = np.where(constant, -np.inf, sign * (lower if sign > 0 else upper)).max(axis=lone.axes, keepdims=True)
        assert not (hold & (sign * lower <= floor)).any()
    else:
        zero = (lower == 0) & constant
        assert (hold == (live & constant & ~(zero if op in NORMS else False))).all()


def test_sums_over_unknown_lengths_keep_signs_alone() -> None:
    lone = Lone("ReduceSum", [1], dims=(2, "n", 2))
    lower, upper = np.array([[[0.0, -1.0]], [[-3.0, 1.0]]]), np.array([[[2.0, 0.0]], [[1.0, 1.0]]])
    low, high = lone.suppose(lower, upper, (2, 1, 2)).bounds()
    assert low.ravel().tolist() == [0, -np.inf, -np.inf, 0]
    assert high.ravel().tolist() == [np.inf, 0, np.inf, np.inf]
    zero = lone.suppose(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), (1, 1, 1)).bounds()
    assert [bound.item() for bound in zero] == [0, 0]


def test_constants_go_from_sums_of_unknown_length_only_as_zeros() -> None:
    """How many there are of the others is known at run time alone."""
    lone = Lone("ReduceSum", [1, 2], dims=(2, 3, "n"))
    bound = np.array([0.0, 1.0, 2.0]).reshape(1, 3, 1)
    lone.suppose(bound, bound, (1, 3, 1))
    demand = lone.rule.need(lone.node, lone.context, [np.ones((1, 1, 1), bool)])[0]
    assert demand is not None and demand.hold is not None and demand.hold.ravel().tolist() == [False, True, True]
    known = Lone("ReduceMean", [1], dims=(2, 3, "n")).suppose(bound, bound, (1, 3, 1))
    demand = known.rule.need(known.node, known.context, [np.ones((1, 1, 1), bool)])[0]
    assert demand is not None and (demand.hold is None or not demand.hold.any())


def test_constants_known_by_a_period_of_another_axis_stay() -> None:
    lone = Lone("ReduceMean", [1], dims=(2, 3, "n"))
    bound = np.arange(12.0).reshape(2, 3, 2)
    lone.suppose(bound, bound, (1, 3, 1))
    demand = lone.rule.need(lone.node, lone.context, [np.ones((1, 1, 1), bool)])[0]
    assert demand is not None and demand.hold is not None and demand.hold.all()


def test_elements_that_are_not_told_apart_are_held_by_nobody() -> None:
    lone = Lone("ReduceL2", [1]).suppose(np.ones((1, 1, 1)), np.ones((1, 1, 1)), (1, 1, 2))
    demand = lone.rule.need(lone.node, lone.context, [np.ones((1, 1, 2), bool)])[0]
    assert demand is not None and demand.hold is None


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_other_axes_carries_channels_on(keepdims: int) -> None:
    lone = Lone("ReduceMean", [1], keepdims)
    carries = lone.rule.carries
    assert carries is not None
    assert [carries(lone.node, lone.context, 0, axis) for axis in range(3)] == [0, None, 1 + keepdims]
    assert carries(lone.node, lone.context, 1, 0) is None
    largest = Lone("ReduceMax", [1], keepdims)
    assert largest.rule.carries is not None and largest.rule.carries(largest.node, largest.context, 0, 0) is None
