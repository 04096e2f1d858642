"""What recurrent layers multiply by, and their repair."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.gathering import gathered
from onnxsqueeze.squeezing.least_squares import solved
from onnxsqueeze.squeezing.reader import Reader
from onnxsqueeze.squeezing.readers import readers_of
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.units.discovery import units_of
from tests.squeezing.networks import model

FEATURES, UNITS, STEPS = 3, 5, 7
X = np.random.default_rng(3).normal(size=(STEPS, 240, FEATURES)).astype(np.float32)
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def network(op: str, direction: str = "forward", copies: int = 0, **attributes: int) -> onnx.ModelProto:
    """Return a recurrent layer, of whose units the last are copies of the first, and one that reads all its states.

    Samples are the first axis of its input, which is turned unless the layer wants it so.
    """
    random = np.random.default_rng(0)
    gates, directions = _GATES[op], 2 if direction == "bidirectional" else 1
    true = UNITS - copies
    same = np.concatenate([np.arange(true), np.arange(copies)])
    rows = (np.arange(gates)[:, None] * true + same).ravel()
    w = random.normal(size=(directions, gates * true, FEATURES))[:, rows]
    r = random.normal(size=(directions, gates * true, true))[:, rows][:, :, same] * 0.5
    b = random.normal(size=(directions, 2, gates * true))[:, :, rows].reshape(directions, -1)
    weights = {"w": w, "r": r, "b": b, "v": random.normal(size=(directions * UNITS, 2)), "c": np.zeros(2)}
    first = attributes.get("layout", 0) == 1
    turned = [] if first else [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])]
    back = [0, 1, 2, 3] if first else [2, 0, 1, 3]
    nodes = [
        *turned,
        helper.make_node(
            op, ["x" if first else "t", "w", "r", "b"], ["s"], hidden_size=UNITS, direction=direction, **attributes
        ),
        helper.make_node("Transpose", ["s"], ["u"], perm=back),
        helper.make_node("Reshape", ["u", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["m"]),
        helper.make_node("Add", ["m", "c"], ["y"]),
    ]
    found = model(nodes, weights, ["batch", STEPS, FEATURES], ["batch", STEPS, 2])
    shape = np.array([0, STEPS, directions * UNITS], np.int64)
    found.graph.initializer.append(onnx.numpy_helper.from_array(shape, "shape"))
    return found


def readers(source: onnx.ModelProto) -> tuple[dict[str, Reader], dict[str, np.ndarray]]:
    dense = load(source)
    found = {reader.name: reader for reader in readers_of(dense, units_of(dense))}
    return found, {name: entry.array for name, entry in dense.initializers.items()}


def states(source: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    source = onnx.ModelProto.FromString(source.SerializeToString())
    source.graph.output.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["s"], {"x": x})[0]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_products_are_what_the_next_state_is_made_of(direction: str) -> None:
    """tanh of both products and their biases is the state, at all steps of all samples."""
    source = network("RNN", direction)
    found, arrays = readers(source)
    x = X.transpose(1, 0, 2)[:4]
    given = states(source, x)
    random, total = np.random.default_rng(0), 0.0
    for name, data in (("s:0", x.transpose(1, 0, 2)), ("s:1", given)):
        reader = found[name]
        rows, bias = reader.rows({reader.tensors[0]: data}, 10**6, random), reader.bias(arrays)
        assert bias is not None and rows.shape[1] == reader.places({reader.tensors[0]: data.shape})
        total = total + np.einsum("dpc,dgc->dpg", rows, reader.weight(arrays)) + bias[:, None]
    wanted = given.transpose(1, 0, 2, 3).reshape(total.shape)
    np.testing.assert_allclose(np.tanh(total), wanted, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_reset_in_front_multiplies_what_the_last_gate_reads(direction: str) -> None:
    """(1 - z) tanh(..) + z h is the next state, z from the first gates' product, .. from that with reset states."""
    source = network("GRU", direction)
    found, arrays = readers(source)
    x = X.transpose(1, 0, 2)[:4]
    given = {"t": x.transpose(1, 0, 2), "s": states(source, x)}
    random, parts = np.random.default_rng(0), {}
    for name in ("s:0", "s:1", "s:2"):
        reader = found[name]
        rows, bias = reader.rows(given, 10**6, random), reader.bias(arrays)
        assert bias is not None
        parts[name] = np.einsum("dpc,dgc->dpg", rows, reader.weight(arrays)) + bias[:, None]
    update = 1 / (1 + np.exp(-parts["s:0"][..., :UNITS] - parts["s:1"][..., :UNITS]))
    before = found["s:1"].rows(given, 10**6, random)
    state = (1 - update) * np.tanh(parts["s:0"][..., 2 * UNITS :] + parts["s:2"]) + update * before
    wanted = given["s"].transpose(1, 0, 2, 3).reshape(state.shape)
    np.testing.assert_allclose(state, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "name", "attributes"),
    [
        ("RNN", "s:1", {}),
        ("LSTM", "s:1", {}),
        ("GRU", "s:1", {"linear_before_reset": 1}),
        ("GRU", "s:1", {}),
        ("GRU", "s:2", {}),
    ],
)
def test_the_repair_of_recurrent_weights_is_least_squares(op: str, name: str, attributes: dict[str, int]) -> None:
    source = network(op, **attributes)
    found, arrays = readers(source)
    reader, part = found[name], Part({"x": X.transpose(1, 0, 2)}, np.arange(240), {}, 60)
    (problem,) = gathered(load(source), [reader], part, 0)[name].joined()
    kept = np.array([0, 2, 4])
    weight, bias = solved(problem, kept, 1e-14)
    given = {"t": X, "s": states(source, X.transpose(1, 0, 2))}
    before = reader.rows(given, 10**6, np.random.default_rng(0))[0]
    own = reader.bias(arrays)
    assert own is not None and bias is not None
    wanted = before @ reader.weight(arrays)[0].T + own[0]
    best = np.linalg.lstsq(np.column_stack([before[:, kept], np.ones(len(before))]), wanted, rcond=None)[0]
    np.testing.assert_allclose(weight[:, kept], best[:3].T, atol=1e-4)
    np.testing.assert_allclose(bias, best[3], atol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize(("op", "attributes"), [("RNN", {}), ("GRU", {"linear_before_reset": 1}), ("GRU", {})])
def test_copies_of_units_go_and_nothing_changes(op: str, direction: str, attributes: dict[str, int]) -> None:
    """What the copies gave to the recurrence, the units that they are copies of take over."""
    source = network(op, direction, copies=2, **attributes)
    x = X.transpose(1, 0, 2)
    found = onnxsqueeze.squeeze(source, {"x": x}, ratio=1.45, metric="deviation", round_to=1, only=["s"])
    (taken,) = found.report.chosen.taken
    assert (taken.before, taken.after) == (5, 3)
    part = Part({"x": x}, np.arange(240), {}, 60)
    before, after = outputs_of(load(source), part)[0], outputs_of(found.minimized, part)[0]
    assert np.abs(before - after).max() < 1e-3 * np.abs(before).max()
