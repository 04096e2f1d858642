"""Masks for models that somebody else exported find the weights of every layer, wherever they are stored."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from tools.measure.real_models import MASKS, difference, published
from tools.models.graph_masks import last_half, masked

WEIGHTS = {
    "k": (8, 3, 3, 3),
    "kb": (8,),
    "t": (8, 6, 2, 2),
    "g": (10, 6),
    "c": (10,),
    "m": (10, 4),
    "v": (4,),
    "w": (1, 16, 4),
    "r": (1, 16, 4),
    "b": (1, 32),
}


def network() -> onnx.ModelProto:
    """A convolution, a transposed one, a Gemm, a MatMul with an Add, and an LSTM."""
    random = np.random.default_rng(0)
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> layers
        (float[n,3,6,6] x) => (float[n,1,4] y) {
        c0 = Conv (x, k, kb) u = ConvTranspose (c0, t) q = GlobalAveragePool (u) f = Flatten (q)
        h = Gemm <transB = 1> (f, g, c) d = MatMul (h, m) e = Add (d, v)
        ax = Constant <value = int64[1] {1}> () s = Unsqueeze (e, ax) l, a, z = LSTM <hidden_size = 4> (s, w, r, b)
        y = Squeeze (l, ax) }""")
    for name, shape in WEIGHTS.items():
        model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    return model


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_half_of_the_rows_of_every_layer_go() -> None:
    result, layers = masked(network(), last_half, biases=True)
    found = arrays(result)
    assert layers == 6  # of the LSTM, two weights
    assert not found["k"][4:].any() and not found["kb"][4:].any() and found["k"][:4].all()
    assert not found["t"][:, 3:].any() and found["t"][:, :3].all()
    assert not found["g"][5:].any() and not found["c"][5:].any()
    assert not found["m"][:, 2:].any() and not found["v"][2:].any() and found["v"][:2].all()
    gates = found["w"].reshape(4, 4, 4)
    assert not gates[:, 2:].any() and gates[:, :2].all()
    assert not found["r"].reshape(4, 4, 4)[:, 2:].any() and not found["b"].reshape(8, 4)[:, 2:].any()


def test_biases_stay_if_only_weights_are_masked() -> None:
    found = arrays(masked(network(), last_half, biases=False)[0])
    assert found["kb"].all() and found["c"].all() and found["v"].all() and found["b"].all()


def test_the_model_given_is_not_changed() -> None:
    model = network()
    before = model.SerializeToString()
    for mask in MASKS.values():
        mask(model)
    assert model.SerializeToString() == before


def test_weights_in_bodies_and_behind_casts_are_found() -> None:
    weight = np.ones((3, 4), np.float16)
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["half"], ["wide"], to=onnx.TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "wide"], ["out"]),
        ],
        "body",
        [],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    values = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])]
    values.append(helper.make_tensor_value_info("yes", onnx.TensorProto.BOOL, []))
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph([node], "g", values, outputs, [numpy_helper.from_array(weight, "half")])
    result, layers = masked(helper.make_model(graph), last_half, biases=False)
    assert layers == 1  # both branches read it
    assert arrays(result)["half"].tolist() == [[1, 1, 0, 0]] * 3
    assert arrays(result)["half"].dtype == np.float16


def test_codes_become_their_zero_point_and_what_is_added_behind_the_scale_zero() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> codes
        (uint8[n,5] x, float[n,1,5] z) => (float[n,4] y, float[n,2,1,4] l) {
        p = MatMulInteger (x, w, , wp) c = Cast <to = 1> (p) m = Mul (c, scale)
        shape = Constant <value_ints = [1, 4]> () b4 = Reshape (b, shape) y = Add (m, b4)
        l, a, e = com.microsoft.DynamicQuantizeLSTM <hidden_size = 4, direction = "bidirectional">
            (z, k, r, lb, , , , , ks, kp, ks, kp) }""")
    random = np.random.default_rng(0)
    weights = {
        "w": random.integers(0, 100, (5, 4), dtype=np.uint8),
        "wp": np.array(128, np.uint8),
        "scale": np.array(0.1, np.float32),
        "b": np.ones(4, np.float32),
        "k": random.integers(1, 100, (2, 5, 16), dtype=np.int8),
        "r": random.integers(1, 100, (2, 4, 16), dtype=np.int8),
        "lb": np.ones((2, 32), np.float32),
        "ks": np.ones(2, np.float32),
        "kp": np.full(2, -3, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    found = arrays(masked(model, last_half, biases=True)[0])
    assert (found["w"][:, 2:] == 128).all() and (found["w"][:, :2] < 128).all()
    assert found["b"].tolist() == [1, 1, 0, 0]
    for name in ("k", "r"):
        gates = found[name].reshape(2, -1, 4, 4)
        assert (gates[..., 2:] == -3).all() and (gates[..., :2] > 0).all()
    assert not found["lb"].reshape(2, 8, 4)[..., 2:].any() and found["lb"].reshape(2, 8, 4)[..., :2].all()


def test_the_list_says_how_to_feed_each_model() -> None:
    models = published(())
    assert len(models) > 20
    assert {"sr": "8000"}.items() <= published(["silero-silero_vad.onnx"])[0].sizes[1].items()
    with_sizes = [size for model in models for size in model.sizes]
    assert all(part.replace("x", "").replace("<", "").isdigit() for size in with_sizes for part in size.values())


@pytest.mark.parametrize(("other", "expected"), [([1.0, 2.0], 0.0), ([1.0, 2.5], 0.2), ([1.0, np.nan], np.inf)])
def test_deviations_are_shares_of_the_scale(other: list[float], expected: float) -> None:
    given = np.array([1.0, 2.5], np.float32) if expected == 0.2 else np.array([1.0, 2.0], np.float32)
    found = np.array([1.0, 2.0] if expected == 0.2 else other, np.float32)
    assert difference([given], [found]) == pytest.approx(expected)
