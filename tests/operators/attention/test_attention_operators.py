"""Planted heads, and elements of heads, in the operators that compute attention in one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.builders import Pair
from tests.support.extent import part
from tests.support.planted.attention_networks import (
    FORMS,
    MICROSOFT,
    ONNX,
    SHARED,
    Form,
    Network,
    Sizes,
    behind_a_layer,
    cached,
    drawn,
    flat,
    grouped,
    kinds,
    multi_head,
    packed,
    pair,
    planted,
    projected,
)  # fmt: skip
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, weights
from tests.support.planted.properties import PROPERTY, mask

Array = npt.NDArray[Any]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_heads_and_their_elements_leave(form: Form, seed: int) -> None:
    assert_recovers(pair(form, *FORMS[form], seed), double=form in ONNX)


@pytest.mark.parametrize("opset", [23, 24, 25])
def test_every_version_of_attention(opset: int) -> None:
    def causal(net: Network, scale: float | None) -> onnx.ModelProto:
        return flat(net, scale, is_causal=1)

    assert_recovers(pair(causal, *SHARED, opset=opset))


def test_the_scale_stays_the_original_one() -> None:
    """It is written out where it followed from a size that changes, and only there."""
    assert kinds(assert_recovers(pair(flat, *SHARED)), "Attention")["scale"] == pytest.approx(1 / np.sqrt(7))
    same_size = (Sizes(2, 2, 7, 2), Sizes(3, 3, 7, 5))
    assert "scale" not in kinds(assert_recovers(pair(flat, *same_size)), "Attention")


def test_attention_without_any_difference_keeps_one_element() -> None:
    """All keys are constant: every query takes the same mean of the values."""
    layers = drawn(Sizes(2, 1, 3, 2), np.random.default_rng(0))
    layers.arrays["key"] *= 0
    for form in (flat, multi_head, projected):
        model = form(Network(layers), None)
        once = minimize(model).model
        assert_equal_outputs(model, once, double=form is flat)
        merged = (6, 2 + 2 + 4)
        assert {(6, 2), (6, 4)} <= set(weights(once)) or merged in weights(once)


@pytest.mark.parametrize("form", [flat, grouped], ids=lambda form: form.__name__)
def test_softcap_sees_constant_keys(form: Form) -> None:
    """Of constant keys nothing cancels behind a tanh; products with keys of 0 are 0 all the same."""
    layers = drawn(Sizes(2, 2, 16, 8 if form is flat else 16), np.random.default_rng(1))
    layers.arrays["key"][..., :8] = 0
    layers.arrays["out"][..., 8:, :] = 0
    model = form(Network(layers), None, softcap=2.0)  # type: ignore[call-arg]
    assert weights(minimize(model, narrowing=False).model) == weights(model)
    layers.arrays["key_bias"][..., :8] = 0
    model = form(Network(layers), None, softcap=2.0)  # type: ignore[call-arg]
    once = minimize(model, narrowing=False).model
    assert_equal_outputs(model, once, double=form is flat)
    assert weights(once) == sorted([(6, 32), (32,), (6, 16), (16,), (6, 16), (16,), (32, 5), (5,)])


def test_half_precision() -> None:
    inner, outer = planted(*SHARED, 0)
    model = flat(Network(outer, dtype=np.float16), None)
    once = minimize(model).model
    assert {(6, 4 * 3), (6, 2 * 3), (6, 2 * 2), (4 * 2, 5)} <= set(weights(once))
    assert_equal_outputs(model, once, tolerance=2e-2, double=False)  # 11 bits, and products of some units


# -- masks and biases on the scores ---------------------------------------------------------------------------------


def with_scores(net: Network, scale: float | None, scores: str, **attributes: Any) -> onnx.ModelProto:
    """Attention of operands [N, T, channels] with something added to its scores."""
    return net.model(net.node("Attention", [*net.triple(), scores], "a", scale=scale, **net.counts, **attributes))


def relative(net: Network, scale: float | None) -> onnx.ModelProto:
    """A bias for each head that a layer makes of the graph's input (Swin V2)."""
    heads = net.layers.sizes.heads
    table = net.store("table", net.layers.arrays.get("table", np.ones((3, heads))))
    made = net.node("MatMul", [net.input("distances", 1, "T", "T", 3), table], "biases")
    return with_scores(net, scale, net.node("Transpose", [made], "turned", perm=[0, 3, 1, 2]))


def stored(net: Network, scale: float | None) -> onnx.ModelProto:
    """A stored bias for each head (T5)."""
    heads = net.layers.sizes.heads
    return with_scores(net, scale, net.store("bias", net.layers.arrays.get("bias", np.ones((heads, 8, 8)))))


@pytest.mark.parametrize("form", [relative, stored], ids=lambda form: form.__name__)
def test_biases_of_heads_leave_with_them(form: Form) -> None:
    """Of a bias that is computed nobody knows whether it masks, so that only zeros among the values could leave."""
    extents = (8, 8) if form is stored else (8, 11)
    assert_recovers(pair(form, *SHARED, seed=4, constants=form is stored), extents=extents)


def test_heads_keep_their_own_biases() -> None:
    _, outer = planted(*SHARED, 4)
    outer.arrays["table"] = np.random.default_rng(0).standard_normal((3, 9))
    outer.arrays["bias"] = np.random.default_rng(1).standard_normal((9, 8, 8))
    for form, extents in ((relative, (8, 11)), (stored, (8, 8))):
        model = form(Network(outer), None)
        once = minimize(model).model
        assert_equal_outputs(model, once, extents=extents)
        assert (3, 4) in weights(once) if form is relative else (4, 8, 8) in weights(once)


def test_a_bias_that_comes_as_it_is_keeps_all_heads() -> None:
    def given_bias(net: Network, scale: float | None) -> onnx.ModelProto:
        return with_scores(net, scale, net.input("bias", "N", net.layers.sizes.heads, "T", "T"))

    _, outer = planted(*SHARED, 0)
    model = given_bias(Network(outer), None)
    once = minimize(model).model
    assert_equal_outputs(model, once)
    assert kinds(once, "Attention")["q_num_heads"] == 9
    assert (6, 9 * 3) in weights(once)


@pytest.mark.parametrize("dtype", [TensorProto.BOOL, TensorProto.FLOAT])
def test_a_query_may_lose_all_keys(dtype: int) -> None:
    """Then attention is 0 and no mean of its values: constants among them stay, unless they are 0."""

    def hidden(net: Network, scale: float | None) -> onnx.ModelProto:
        return with_scores(net, scale, net.input("mask", "N", 1, "T", "T", elem_type=dtype))

    inner, outer = planted(*SHARED, 0, constants=False)
    assert_recovers(Pair(hidden(Network(outer), None), hidden(Network(inner), float(1 / np.sqrt(7)))), narrowing=False)
    outer = drawn(SHARED[0], np.random.default_rng(0))
    outer.arrays["value"][..., 0] *= 0
    model = hidden(Network(outer), None)
    result = minimize(model, narrowing=False)
    assert weights(result.model) == weights(model)
    assert "constant, but its reader cannot absorb a constant: Attention" in result.report.stayed
    assert_equal_outputs(model, result.model)
    outer.arrays["value_bias"][..., 0] *= 0
    once = minimize(hidden(Network(outer), None), narrowing=False).model
    assert (6, 2) in weights(once)


@pytest.mark.parametrize(
    ("mask_value", "causal", "leaves"),
    [
        (np.tril(np.full((8, 8), True)), 0, True),
        (np.tril(np.full((8, 8), True)), 1, True),
        (np.triu(np.full((8, 8), True), 1), 0, False),
        (np.where(np.eye(8) > 0, 0, -np.inf), 0, True),
        (np.where(np.eye(8) > 0, 0, -np.inf), 1, False),
        (np.where(np.eye(8) > 0, 0, -1e30), 1, True),
    ],
)
def test_stored_masks_tell_whether_a_query_loses_all_keys(mask_value: Array, causal: int, leaves: bool) -> None:
    layers = drawn(SHARED[0], np.random.default_rng(0))
    layers.arrays["value"][..., 0] *= 0
    net = Network(layers)
    stored_mask = net.store("mask", mask_value, mask_value.dtype if mask_value.dtype == bool else None)
    model = with_scores(net, None, stored_mask, is_causal=causal)
    once = minimize(model).model
    assert ((6, 2) in weights(once)) == leaves
    assert_equal_outputs(model, once, extents=(8, 8))


# -- what stays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotation_inside_of_attention_keeps_whole_heads(interleaved: int) -> None:
    def form(net: Network, scale: float | None) -> onnx.ModelProto:
        return grouped(net, scale, do_rotary=1, rotary_interleaved=interleaved)

    networks = pair(form, Sizes(2, 2, 16, 16), Sizes(3, 3, 16, 16), constants=False)
    assert_recovers(networks, double=False)


def test_rotated_constant_keys_do_not_cancel() -> None:
    """They differ by position, and so does what the queries that meet them read."""
    layers = drawn(Sizes(2, 2, 32, 32), np.random.default_rng(0))
    still = [*range(8), *range(16, 24)]
    layers.arrays["key"][..., still] = 0
    layers.arrays["query"][3] = 0
    layers.arrays["query"][3, ..., still] = 1
    layers.arrays["key"][3], layers.arrays["value"][3] = 0, 0
    layers.arrays["out"][..., 8:, :] = 0
    model = behind_a_layer(grouped(Network(layers), None, do_rotary=1))
    once = minimize(model).model
    assert_equal_outputs(model, once, double=False)
    assert (6, 4) in weights(once)
    assert kinds(once, "GroupQueryAttention") == kinds(model, "GroupQueryAttention")
    assert (4, 4 * 32) in weights(once)


def separate(net: Network, scale: float | None) -> onnx.ModelProto:
    """MultiHeadAttention of keys and values [N, heads, T, size], as of an encoder."""
    sizes = net.layers.sizes
    query, key, value = net.triple()
    operands = [query, net.by_head(key, sizes.heads, sizes.size), net.by_head(value, sizes.heads, sizes.value)]
    y = net.node("MultiHeadAttention", operands, "a", domain=MICROSOFT, num_heads=sizes.heads, scale=scale)
    return net.model(y)


def test_keys_by_head_are_as_wide_as_values() -> None:
    assert_recovers(pair(separate, Sizes(2, 1, 3, 3), Sizes(4, 1, 7, 7)), double=False, narrowing=False)
    layers = drawn(Sizes(2, 1, 7, 7), np.random.default_rng(0))
    layers.arrays["key"][..., :4] = 0
    layers.arrays["out"][..., :2, :] = 0
    model = separate(Network(layers), None)
    once = minimize(model, narrowing=False).model
    assert_equal_outputs(model, once, double=False)
    assert weights(once).count((6, 2 * 5)) == 3


def test_sizes_that_the_kernel_takes() -> None:
    """GroupQueryAttention runs with sizes that are multiples of 8, and one size for keys and values."""
    layers = drawn(Sizes(2, 2, 24, 24), np.random.default_rng(0))
    layers.arrays["key"][..., :17] = 0
    layers.arrays["out"][..., 5:, :] = 0
    model = grouped(Network(layers), None)
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    assert {(6, 4 * 8), (6, 2 * 8)} <= set(weights(result.model))
    layers.arrays["out"][..., :9, :] = 1
    result = minimize(grouped(Network(layers), None))
    assert {(6, 4 * 16), (6, 2 * 16)} <= set(weights(result.model))
    assert any("groups stay equal: com.microsoft.GroupQueryAttention" in reason for reason in result.report.stayed)


def test_sinks_leave_with_their_heads() -> None:
    """A sink takes a share of the probabilities: no constant cancels or passes."""
    layers = drawn(Sizes(2, 3, 16, 16), np.random.default_rng(0))
    layers.arrays["out"][:, 1] = 0
    layers.arrays["out"][..., 8:, :] = 0
    layers.arrays["value"][..., 0] = 0
    layers.arrays["key"][..., :8] = 0
    net = Network(layers)
    model = grouped(net, None)
    (node,) = (node for node in model.graph.node if node.op_type == "GroupQueryAttention")
    node.input.extend(["", "", "", "", "sinks"])
    sinks = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(sinks, "sinks"))
    once = minimize(model).model
    assert_equal_outputs(model, once, double=False)
    assert {(4,), (6, 4 * 16)} <= set(weights(once))
    assert (
        "constant, but its reader cannot absorb a constant: com.microsoft.GroupQueryAttention"
        in minimize(model).report.stayed
    )


def append(*names: str, outputs: Sequence[str] = (), **attributes: Any) -> Callable[[onnx.NodeProto], None]:
    """Return a change of a node: more inputs, outputs and attributes."""

    def change(node: onnx.NodeProto) -> None:
        node.input.extend(names)
        node.output.extend(outputs)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())

    return change


def nothing(node: onnx.NodeProto) -> None:
    """Leave a node as it is."""


def without_bias(node: onnx.NodeProto) -> None:
    """Take the bias away."""
    del node.input[2:]


@pytest.mark.parametrize(
    ("form", "change", "reason"),
    [
        (flat, append(outputs=["", "", "qk"]), "Attention that also returns its scores"),
        (multi_head, append(outputs=["", "", "qk"]), "MultiHeadAttention with its scores as an output"),
        (multi_head, append("", "", "", "", "", "out_bias", ""), "MultiHeadAttention with a shared cache"),
        (grouped, append("", "", "", "", "", "out_bias", "out_bias"), "GroupQueryAttention with a quantized cache"),
        (
            grouped,
            append("", "", "", "", "", "", "", "out_bias", "out_bias"),
            "GroupQueryAttention with normalized queries",
        ),
        (grouped, append("", "", "", "", "x"), "GroupQueryAttention with computed sinks"),
        (projected, append(do_rotary=1), "Attention with rotation or a shared cache"),
        (projected, without_bias, "Attention without a constant bias"),
    ],
)
def test_what_is_not_understood_stays(form: Form, change: Callable[[onnx.NodeProto], None], reason: str) -> None:
    """These run on other devices only, or not at all without more inputs: the weights and the reason are judged."""
    _, outer = planted(*FORMS[form], 0)
    model = form(Network(outer), None)
    model = behind_a_layer(model) if form is projected else model
    (node,) = (node for node in model.graph.node if "Attention" in node.op_type)
    change(node)
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)
    result = minimize(model, narrowing=False)
    assert weights(result.model) == weights(model)
    assert any(reason in stayed for stayed in result.report.stayed), dict(result.report.stayed)


def test_packed_keys_and_values_stay() -> None:
    net = Network(drawn(Sizes(2, 1, 4, 4), np.random.default_rng(0)))
    query = net.linear("x", "query")
    both = net.node("Concat", [net.linear("x", "key"), net.linear("x", "value")], "both", axis=2)
    split = net.node("Reshape", [both, net.store("split", [0, 0, 2, 2, 4], np.int64)], "split_both")
    y = net.node("MultiHeadAttention", [query, split], "a", domain=MICROSOFT, num_heads=2)
    net.layers.arrays["out"][0] = 0
    model = net.model(y)
    result = minimize(model, narrowing=False)
    assert weights(result.model) == weights(model)
    assert any("packed keys and values" in stayed for stayed in result.report.stayed)


# -- properties -----------------------------------------------------------------------------------------------------

few = st.integers(1, 3)


@given(
    st.sampled_from(list(FORMS)),
    st.tuples(few, few, few, few),
    st.tuples(few, few, few, few),
    st.integers(0, 2**32 - 1),
)
@settings(PROPERTY, max_examples=part(40))
def test_planted_attention_comes_back(
    form: Form, small: tuple[int, int, int, int], more: tuple[int, int, int, int], seed: int
) -> None:
    step = 8 if form in (grouped, packed) else 1
    shared = (small[1], small[1] + more[1]) if form in (*ONNX, grouped, packed) else (1, 1)
    value = (small[2], more[2]) if step == 8 else (small[3], more[3])
    inner = Sizes(small[0], shared[0], small[2] * step, value[0] * step)
    outer = Sizes(small[0] + more[0], shared[1], (small[2] + more[2]) * step, sum(value) * step)
    assert_recovers(pair(form, inner, outer, seed), double=form in ONNX)


MASKED: tuple[Form, ...] = (*FORMS, relative, cached)


@given(st.sampled_from(MASKED), st.tuples(few, few, few, few), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(PROPERTY, max_examples=part(60))
def test_masked_attention_keeps_its_function(
    form: Form, sizes: tuple[int, int, int, int], share: float, seed: int
) -> None:
    groups, shared, size, value = sizes
    if form in (grouped, packed):
        size = value = 8 * size
    elif form not in (*ONNX, relative, cached):
        shared = 1
    layers = drawn(Sizes(groups, shared, size, value), np.random.default_rng(seed))
    layers.arrays["table"] = np.random.default_rng(seed).standard_normal((3, groups * shared))
    model = form(Network(layers), None)
    mask(model, share, seed)
    once = minimize(model).model
    assert_equal_outputs(model, once, tolerance=1e-4, double=False)  # masks may leave outputs far below what is summed
    again = minimize(once).model
    assert weights(again) == weights(once)
