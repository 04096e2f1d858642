"""Branches stacked along an axis of their own: what reduces or weighs them passes their channels."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, weights

CHANNELS, KEPT, BRANCHES = 12, 7, 3
STACK = "".join(f"u{b} = Unsqueeze(r{b}, axis) " for b in range(BRANCHES))
HEAD = "".join(f"c{b} = MatMul(x, w{b}) r{b} = Relu(c{b}) " for b in range(BRANCHES))
STACKED = HEAD + STACK + "s = Concat <axis = 1> (" + ", ".join(f"u{b}" for b in range(BRANCHES)) + ") "
REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceProd")


def network(body: str, dead: dict[int, int], **more: np.ndarray) -> ModelProto:
    """Return branches whose channels from a place on are zeros, by branch; ``body`` makes m of the stacked ones, s."""
    random = np.random.default_rng(0)
    arrays = {f"w{b}": random.normal(size=(5, CHANNELS)).astype(np.float32) for b in range(BRANCHES)}
    for branch, start in dead.items():
        arrays[f"w{branch}"][:, start:] = 0
    arrays |= {"z": random.normal(size=(CHANNELS, 3)).astype(np.float32), "axis": np.array([1]), **more}
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 18]> stacked (float[n,5] x) => (float[n,3] y) {{
        {STACKED} {body} y = MatMul(m, z) }}"""
    )
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def first_layers(model: ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of the branches' weights."""
    return [shape for shape in weights(model) if shape[:1] == (5,)]


@pytest.mark.parametrize("op", REDUCTIONS)
def test_channels_that_are_zero_in_all_branches_go(op: str) -> None:
    model = network(f"m = {op} <keepdims = 0> (s, axis)", dict.fromkeys(range(BRANCHES), KEPT))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert first_layers(result) == [(5, KEPT)] * BRANCHES


@pytest.mark.parametrize("op", REDUCTIONS)
def test_a_channel_that_one_branch_makes_stays_in_all(op: str) -> None:
    model = network(f"m = {op} <keepdims = 0> (s, axis)", {0: KEPT, 1: KEPT, 2: KEPT + 2})
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    kept = KEPT if op in ("ReduceMin", "ReduceProd") else KEPT + 2  # the smallest and the product are zeros there
    assert first_layers(result) == [(5, kept)] * BRANCHES


HELD = "cannot absorb a constant"


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMean", "ReduceSum"])
def test_a_branch_of_zeros_goes(op: str) -> None:
    """What a maximum makes of it is seen by nobody, as the others are never negative; a mean is scaled."""
    model = network(f"m = {op} <keepdims = 0> (s, axis)", {1: 0})
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert len(first_layers(result.model)) == BRANCHES - 1
    assert not any(HELD in reason for reason in result.report.stayed)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_branches_keep_the_same_channels(op: str) -> None:
    """One branch has no first channels, the others no last ones, as many: what is reduced must stand at one place."""
    model = network(f"m = {op} <keepdims = 0> (s, axis)", {0: KEPT, 2: KEPT})
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    array = numpy_helper.to_array(weight).copy()
    array[:, : CHANNELS - KEPT] = 0
    weight.CopyFrom(numpy_helper.from_array(array, "w1"))
    assert_equal_outputs(model, minimize(model).model)


def test_what_is_gated_is_never_negative() -> None:
    """A product of what is at least 0 is, whatever rounding does, so that a maximum never sees a branch of zeros."""
    body = "t = MatMul(x, q) e = Sigmoid(t) f = Unsqueeze(e, axis) v = Mul(s, f) m = ReduceMax <keepdims = 0> (v, axis)"
    model = network(body, {1: 0}, q=np.random.default_rng(2).normal(size=(5, CHANNELS)).astype(np.float32))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert not any(HELD in reason for reason in result.report.stayed)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_a_constant_that_shows_stays(op: str) -> None:
    """The others may lie on either side of it."""
    shift = np.array([0, 0.5 if op == "ReduceMax" else -0.5, 0], np.float32).reshape(1, BRANCHES, 1)
    sign = "Neg" if op == "ReduceMax" else "Identity"
    model = network(f"l = {sign}(s) t = Sub(l, c) m = {op} <keepdims = 0> (t, axis)", {1: 0}, c=shift)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert any(HELD in reason for reason in result.report.stayed)


def test_constants_that_differ_by_channel_are_folded_channel_by_channel() -> None:
    """A branch that is one constant for each channel goes from a sum, and its constants go on."""
    shift = np.zeros((1, BRANCHES, CHANNELS), np.float32)
    shift[0, 1] = np.linspace(-1, 1, CHANNELS)
    model = network("t = Add(s, c) m = ReduceSum <keepdims = 0> (t, axis)", {1: 0, 0: KEPT, 2: KEPT}, c=shift)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert first_layers(result) == [(5, KEPT)] * (BRANCHES - 1)


def test_softmax_over_branches_passes_their_channels() -> None:
    """As in selective kernels: the weights of a channel that is zero in all branches are not read."""
    body = """p = ReduceSum <keepdims = 0> (s, axis) g = MatMul(p, f) h = Reshape(g, shape)
        a = Softmax <axis = 1> (h) v = Mul(s, a) m = ReduceSum <keepdims = 0> (v, axis)"""
    random = np.random.default_rng(1)
    gate = random.normal(size=(CHANNELS, BRANCHES * CHANNELS)).astype(np.float32)
    shape = np.array([-1, BRANCHES, CHANNELS])
    model = network(body, dict.fromkeys(range(BRANCHES), KEPT), f=gate, shape=shape)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert (KEPT, BRANCHES * KEPT) in weights(result)


def test_shares_of_constant_scores_are_constant() -> None:
    """A channel whose scores are constant in all branches is weighed by constants; its scores go."""
    scores = np.zeros((5, BRANCHES * CHANNELS), np.float32).reshape(5, BRANCHES, CHANNELS)
    scores[:, :, :KEPT] = np.random.default_rng(1).normal(size=(5, BRANCHES, KEPT))
    body = """g = MatMul(x, f) gb = Add(g, b) h = Reshape(gb, shape) a = Softmax <axis = 1> (h)
        m = ReduceMax <keepdims = 0> (a, axis)"""
    more = {"f": scores.reshape(5, -1), "b": np.linspace(-1, 1, BRANCHES * CHANNELS, dtype=np.float32)}
    model = network(body, {}, shape=np.array([-1, BRANCHES, CHANNELS]), **more)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert (5, BRANCHES * KEPT) in weights(result)
