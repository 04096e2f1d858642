"""Layers that work along another axis than the channels, which pass them; and those that are worth more as layers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

import onnxsqueeze as sq
from onnxsqueeze.pipeline import search
from tests.support.planted.checks import assert_equal_outputs, minimize, weights

CHANNELS, KEPT, TOKENS, HIDDEN = 20, 12, 6, 8
THERE, BACK = "Transpose <perm = [0, 2, 1]> (r)", "Transpose <perm = [0, 2, 1]> (g)"
MIXED = {
    "right": f"t = {THERE} g = MatMul(t, p) u = {BACK}",
    "left": "u = MatMul(p, r)",
    "behind a function": "v = MatMul(p, r) u = Tanh(v)",
    "convolution": "u = Conv(r, k)",
    "twice": f"t = {THERE} h = MatMul(t, p1) f = Relu(h) g = MatMul(f, p2) u = {BACK}",
    "residual": f"t = {THERE} h = MatMul(t, p1) f = Tanh(h) g = MatMul(f, p2) v = {BACK} u = Add(r, v)",
}


def network(mixed: str, dead: str = "", *, constant: float = 0.0, zeros: tuple[str, int] = ("p", TOKENS)) -> ModelProto:
    """Channels of tokens in front of what mixes those; the last ones are constant, or not read behind it.

    Args:
        mixed: the nodes in between. dead: "constant" or "unread".
        constant: what the last channels are. zeros: a matrix of the mixer, and the column from which on it is 0.
    """
    random = np.random.default_rng(0)
    shapes = {"a": (5, CHANNELS), "b": (CHANNELS,), "p": (TOKENS, TOKENS), "k": (TOKENS, TOKENS, 1), "z": (CHANNELS, 3)}
    shapes |= {"p1": (TOKENS, HIDDEN), "p2": (HIDDEN, TOKENS), "s": (TOKENS, 1)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if dead == "constant":
        arrays["a"][:, KEPT:], arrays["b"][KEPT:] = 0, constant
    elif dead == "unread":
        arrays["z"][KEPT:] = 0
    arrays[zeros[0]][:, zeros[1] :] = 0
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> mixing
        (float[n,{TOKENS},5] x) => (float[n,{TOKENS},3] y) {{
        h0 = MatMul(x, a) hb = Add(h0, b) r = Relu(hb) {mixed} y = MatMul(u, z) }}""")
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in read
    )
    return model


def first(model: ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of the layers in front."""
    return [shape for shape in weights(model) if shape[:1] == (5,)]


@pytest.mark.parametrize("dead", ["constant", "unread"])
@pytest.mark.parametrize("mixed", MIXED)
def test_channels_pass_what_mixes_tokens(mixed: str, dead: str) -> None:
    model = network(MIXED[mixed], dead)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert first(result.model) == [(5, KEPT)]
    mixers = [shape for shape in weights(model) if set(shape) <= {TOKENS, HIDDEN, 1}]
    assert [shape for shape in weights(result.model) if shape in mixers] == mixers
    assert not any("different at each position" in reason for reason in result.report.stayed)


@pytest.mark.parametrize("mixed", ["right", "left", "twice"])
def test_unread_channels_pass_biases_of_tokens(mixed: str) -> None:
    body = MIXED[mixed].replace("u =", "w =") + " u = Add(w, s)"
    model = network(body, "unread")
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert first(result) == [(5, KEPT)]


def test_a_constant_that_tokens_mix_stays() -> None:
    """Each token gets another multiple of it, for which a layer behind has no bias."""
    model = network(MIXED["left"], "constant", constant=0.5)
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert first(result) == [(5, CHANNELS)]


def test_a_constant_passes_weights_that_sum_to_one() -> None:
    """A mean over tokens, or an adjacency that is normalised, makes of a constant the same constant."""
    model = network(MIXED["left"], "constant", constant=0.5)
    (mixer,) = [tensor for tensor in model.graph.initializer if tensor.name == "p"]
    array = np.kron(np.array([[0.25, 0.75], [0.5, 0.5]]), np.eye(TOKENS // 2)).astype(np.float32)
    mixer.CopyFrom(numpy_helper.from_array(array, "p"))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert first(result) == [(5, KEPT)]


def test_hidden_units_of_a_mixer_go_as_those_of_a_layer() -> None:
    model = network(MIXED["twice"], zeros=("p1", 5))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert (TOKENS, 5) in weights(result) and (5, TOKENS) in weights(result)


def test_a_kernel_that_slides_over_channels_keeps_them() -> None:
    model = network("u = Conv <pads = [1, 1]> (r, k3)", "constant")
    kernel = np.random.default_rng(1).normal(size=(TOKENS, TOKENS, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "k3"))
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert first(result) == [(5, CHANNELS)]


def test_both_readings_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be larger by the other reading stays a layer; networks without any are analysed once."""
    analysed: list[int] = []
    whole = search._attempt
    monkeypatch.setattr(search, "_attempt", lambda *given: analysed.append(1) or whole(*given))
    sq.minimize(network("u = Relu(r)", "constant"), verify=False, round_to=1)
    assert len(analysed) == 1


def deep(blocks: int, dead: int) -> ModelProto:
    """Tokens behind one of a class, in residual blocks of which each mixes its tokens and then its channels.

    So many hidden units of each block are zero.
    """
    random = np.random.default_rng(0)
    shapes = {"token": (1, 1, 4), "z": (4, 3)}
    body, last = "t0 = Concat <axis = 1> (token, x)", "t0"
    for block in range(blocks):
        shapes |= {f"m{block}": (TOKENS + 1, TOKENS + 1), f"a{block}": (4, HIDDEN), f"b{block}": (HIDDEN, 4)}
        body += f"""
            n{block} = LayerNormalization <axis = -1> ({last}, scale) g{block} = MatMul(m{block}, n{block})
            u{block} = Add({last}, g{block}) h{block} = MatMul(u{block}, a{block}) r{block} = Tanh(h{block})
            w{block} = MatMul(r{block}, b{block}) v{block} = Add(u{block}, w{block})"""
        last = f"v{block}"
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> deep
        (float[1,{TOKENS},4] x) => (float[1,3] y) {{
        {body}
        f = Gather <axis = 1> ({last}, zero) y = MatMul(f, z) }}""")
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for block in range(blocks):
        arrays[f"a{block}"][:, :dead] = 0
    arrays |= {"scale": np.ones(4, np.float32), "zero": np.asarray(0)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


@pytest.mark.parametrize("dead", [0, 3])
def test_the_other_reading_costs_as_many_analyses_for_many_layers(monkeypatch: pytest.MonkeyPatch, dead: int) -> None:
    """One of them lets channels pass to the next, which are not asked for one by one."""
    counts = []
    whole = search._attempt
    for blocks in (2, 6):
        attempts: list[int] = []
        monkeypatch.setattr(search, "_attempt", lambda *given, to=attempts: to.append(1) or whole(*given))
        sq.minimize(deep(blocks, dead), verify=False, round_to=1)
        counts.append(len(attempts))
    assert counts[0] == counts[1] > 1


def test_a_layer_beside_the_channels_is_reported() -> None:
    report = minimize(network(MIXED["left"], "constant")).report
    assert len(report.layers) == 3
    assert report.layers[1].shape_after == (TOKENS, TOKENS)


TURNED = {
    "A is transposed": (f"[{TOKENS},5]", "MatMul(x, a)", "Gemm <transA = 1> (h, w)", 0),
    "B is transposed": (f"[5,{TOKENS}]", "MatMul(a, x)", "Gemm <transB = 1> (w, h)", 1),
}


@pytest.mark.parametrize("way", TURNED)
def test_channels_that_a_layer_puts_along_another_axis(way: str) -> None:
    """The result is square, so that its shape does not tell which axis is whose; a part of the channels is read."""
    shape, product, turned, axis = TURNED[way]
    random = np.random.default_rng(1)
    arrays = {"a": random.normal(size=(5, CHANNELS)), "b": random.normal(size=CHANNELS)}
    arrays["w"], arrays["k"] = random.normal(size=(TOKENS, CHANNELS)), random.permutation(CHANNELS)[:KEPT]
    if axis:
        arrays |= {"a": arrays["a"].T, "b": arrays["b"][:, None], "w": arrays["w"].T}
    size = f"[{KEPT},{CHANNELS}]" if axis == 0 else f"[{CHANNELS},{KEPT}]"
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> turned (float{shape} x) => (float{size} z) {{
        c = {product} s = Add(c, b) h = Relu(s) y = {turned} t = Tanh(y) z = Gather <axis = {axis}> (t, k) }}""")
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.int64 if name == "k" else np.float32), name)
        for name, array in arrays.items()
    )
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert ((5, KEPT), (KEPT, 5))[axis] in weights(result.model)


@pytest.mark.parametrize("bias", [(CHANNELS, 3), (CHANNELS, 1), (1, 3), (3,), ()])
@pytest.mark.parametrize("made", ["Identity(z)", "Sub(z, z)", "Mul(z, w)"])
def test_a_bias_beside_the_layer_is_sliced(bias: tuple[int, ...], made: str) -> None:
    """Of Gemm, channels being its rows: a bias may have an entry for each of them."""
    random = np.random.default_rng(0)
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> rows
        (float[{TOKENS},5] x) => (float[{KEPT},3] y) {{
        h0 = MatMul(x, a) r = Relu(h0) c = {made}
        g = Gemm <transA = 1> (r, p, c) y = Gather <axis = 0> (g, i) }}""")
    arrays = {"a": (5, CHANNELS), "p": (TOKENS, 3), "z": bias, "w": (CHANNELS, 3)}
    stored = {
        name: random.normal(size=shape).astype(np.float32) for name, shape in arrays.items() if name in f"apz{made}"
    }
    stored["i"] = random.permutation(CHANNELS)[:KEPT]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    once = minimize(model).model
    assert_equal_outputs(model, once)
    assert first(once) == [(5, KEPT)]
    assert (CHANNELS, 3) not in weights(once)
