"""Planted LSTM, GRU and RNN layers: units that nothing reads, that stay zero, or that are constant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import pytest

import onnxsqueeze as sq
from tests.support.planted.checks import DOUBLE, SINGLE, deviation, in_double, minimize, run, weights
from tests.support.planted.recurrent_networks import FEATURES, GATES, OUT, RecurrentNetwork, Units, feeds

OPS = ("LSTM", "GRU", "RNN")


def checked(model: onnx.ModelProto, double: bool = True) -> sq.Result:
    """Minimize, and compare for two lengths of the sequences."""
    result = minimize(model, narrowing=False)
    for steps, batch in ((1, 1), (6, 3)):
        given = feeds(model, steps, batch)
        for optimized in (False, True):
            assert deviation(run(model, given, optimized), run(result.model, given, optimized)) <= SINGLE
    if double:
        assert deviation(in_double(model, given), in_double(result.model, given)) <= DOUBLE
    return result


def layer_shapes(op: str, directions: int, features: int, units: int, bias: bool = True) -> list[tuple[int, ...]]:
    """Return the shapes of the weights of a layer."""
    rows = GATES[op] * units
    return [(directions, rows, features), (directions, rows, units)] + [(directions, 2 * rows)] * bias


def attribute(model: onnx.ModelProto, op: str, name: str) -> Any:
    """Return an attribute of the only node of an operator."""
    (node,) = (node for node in model.graph.node if node.op_type == op)
    return next(onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name)


def expected(*parts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return sorted(shape for part in parts for shape in part)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("opset", [11, 17, 22])
def test_dead_and_zero_units(op: str, direction: str, opset: int) -> None:
    """What no live unit and no reader reads leaves, and so does what stays 0 forever, whoever reads it."""
    network, units = RecurrentNetwork(opset), Units(4, dead=3, zero=3)
    (y, *_), kinds = network.recurrent(op, network.input("T", "B", FEATURES), FEATURES, units, direction=direction)
    model = network.model(network.head(network.joined(y, units.total), kinds), ["T", "B", OUT])
    result = checked(model, direction == "forward")
    assert weights(result.model) == expected(layer_shapes(op, 1, FEATURES, 4), [(4, OUT)])
    assert attribute(result.model, op, "hidden_size") == 4


@pytest.mark.parametrize("op", OPS)
def test_two_bidirectional_layers(op: str) -> None:
    """Each direction loses units of its own, as many as the other, and the layer above the inputs that they were."""
    network, units, more = RecurrentNetwork(), Units(4, dead=2, zero=2), Units(3, dead=2, zero=1)
    x = network.input("T", "B", FEATURES)
    (y, *_), _ = network.recurrent(op, x, FEATURES, units, directions=2)
    x = network.joined(y, 2 * units.total)
    kernel = f"weight_{len(network.weights)}"
    (y, *_), kinds = network.recurrent(op, x, 2 * units.total, more, directions=2)
    first = network.kinds[0]
    network.weights[kernel][..., first == "dead"] = 0
    result = checked(network.model(network.head(network.joined(y, 2 * more.total), kinds), ["T", "B", OUT]), False)
    assert weights(result.model) == expected(layer_shapes(op, 2, FEATURES, 4), layer_shapes(op, 2, 8, 3), [(6, OUT)])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("gone", [0, 1])
def test_one_direction_leaves(op: str, gone: int) -> None:
    """Of a direction that nothing reads nothing is left; the other goes on as it was."""
    functions = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["HardSigmoid", "Tanh"], "RNN": ["Affine"]}
    activations = functions[op] + (["LeakyRelu"] if op == "RNN" else functions[op])
    listed = {"RNN": {"activation_alpha": [0.5, 0.3], "activation_beta": [0.1]}}
    if op == "GRU":
        listed["GRU"] = {"activation_alpha": [0.2, 0.3], "activation_beta": [0.5, 0.4]}
    network, units = RecurrentNetwork(), Units(4, dead=2)
    x = network.input("T", "B", FEATURES)
    given: dict[str, Any] = {"activations": activations, **listed.get(op, {})}
    (y, *_), kinds = network.recurrent(op, x, FEATURES, units, directions=2, **given)
    kinds.reshape(2, -1)[gone] = "dead"
    result = checked(network.model(network.head(network.joined(y, 12), kinds), ["T", "B", OUT]), False)
    assert weights(result.model) == expected(layer_shapes(op, 1, FEATURES, 4), [(4, OUT)])
    assert attribute(result.model, op, "direction") == (b"reverse", b"forward")[gone]


def test_directions_keep_equally_many() -> None:
    network, units = RecurrentNetwork(), Units(4, dead=3)
    (y, *_), kinds = network.recurrent("LSTM", network.input("T", "B", FEATURES), FEATURES, units, directions=2)
    for recurrent, own in zip(network.weights["weight_1"], kinds.reshape(2, -1), strict=True):
        dead = own == "dead"
        recurrent.reshape(4, 7, 7)[:, np.outer(dead, dead)] = 0
    kinds[np.flatnonzero(kinds[:7] == "dead")[0]] = "live"
    result = checked(network.model(network.head(network.joined(y, 14), kinds), ["T", "B", OUT]), False)
    assert weights(result.model) == expected(layer_shapes("LSTM", 2, FEATURES, 5), [(10, OUT)])


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "peephole": ("LSTM", {"peephole": True}),
    "coupled": ("LSTM", {"input_forget": 1}),
    "clipped": ("LSTM", {"clip": 0.5}),
    "no bias": ("LSTM", {"bias": False}),
    "reset last": ("GRU", {"linear_before_reset": 1}),
    "clipped gru": ("GRU", {"clip": 0.4, "linear_before_reset": 1}),
    "softsign": ("GRU", {"activations": ["Sigmoid", "Softsign"]}),
    "relu": ("RNN", {"activations": ["Relu"]}),
    "hard": ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Relu"], "activation_alpha": [0.3]}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str) -> None:
    op, options = VARIANTS[variant]
    network, units = RecurrentNetwork(), Units(4, dead=3, zero=3)
    (y, *_), kinds = network.recurrent(op, network.input("T", "B", FEATURES), FEATURES, units, **options)
    result = checked(network.model(network.head(network.joined(y, units.total), kinds), ["T", "B", OUT]), False)
    more = [(1, 12)] if "peephole" in options else []
    shapes = layer_shapes(op, 1, FEATURES, 4, options.get("bias", True))
    assert weights(result.model) == expected(shapes, [(4, OUT)], more)


def zeros(network: RecurrentNetwork, x: str, units: int) -> str:
    """Make an initial state of zeros for the batch of a sequence, as torch's exporters do."""
    batch = network.node("Slice", network.node("Shape", x), *(network.weight([n], np.int64) for n in (1, 2, 0)))
    sizes = [network.weight([number], np.int64) for number in (1, units)]
    return str(network.node("Concat", sizes[0], batch, sizes[1], axis=0))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("way", ["fill", "expand", "constant"])
def test_initial_states_of_zeros(op: str, way: str) -> None:
    """They count as none, however they are made."""
    network, units = RecurrentNetwork(), Units(4, dead=3, zero=3)
    x = network.input("T", "B" if way != "constant" else 3, FEATURES)
    if way == "constant":
        state = network.weight(np.zeros((1, 3, units.total)))
    elif way == "fill":
        state = network.node("ConstantOfShape", zeros(network, x, units.total))
    else:
        state = network.node("Expand", network.weight(0.0), zeros(network, x, units.total))
    options = {"peephole": True} if op == "LSTM" else {}
    (y, *_), kinds = network.recurrent(op, x, FEATURES, units, states=(state, state), **options)
    model = network.model(
        network.head(network.joined(y, units.total), kinds), ["T", "B" if way != "constant" else 3, OUT]
    )
    result = minimize(model, narrowing=False)
    given = feeds(model)
    assert deviation(run(model, given), run(result.model, given)) <= SINGLE
    more = [(1, 12)] if op == "LSTM" else []
    found = [shape for shape in weights(result.model) if shape]
    assert found == expected(layer_shapes(op, 1, FEATURES, 4), [(4, OUT)], more)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("started", [False, True])
def test_initial_states_of_constants(op: str, started: bool) -> None:
    """Units leave that start from 0 and stay there; one of them that starts elsewhere moves those that read it.

    Those read the dead units then, unless they have no gates.
    """
    network, units = RecurrentNetwork(), Units(4, dead=3, zero=3)
    x = network.input("T", 3, FEATURES)
    count = 2 if op == "LSTM" else 1
    states = [network.weight(network.drawn(1, 3, units.total)) for _ in range(count)]
    (y, *_), kinds = network.recurrent(op, x, FEATURES, units, states=states)
    for state in states:
        network.weights[state][..., np.flatnonzero(kinds == "zero")[int(started) :]] = 0
    result = checked(network.model(network.head(network.joined(y, units.total), kinds), ["T", 3, OUT]), False)
    kept = 4 + started * (3 if op == "RNN" else 6)
    more = [(1, 3, kept)] * count
    assert weights(result.model) == expected(layer_shapes(op, 1, FEATURES, kept), [(kept, OUT)], more)


@pytest.mark.parametrize("reset_last", [0, 1])
def test_constant_that_lasts(reset_last: int) -> None:
    """A unit that starts at its constant joins the biases, but not where a reset multiplies what is read of it."""
    network, units = RecurrentNetwork(), Units(4, constant=3)
    state = network.weight(network.drawn(1, 3, units.total))
    options = {"linear_before_reset": reset_last, "activations": ["Sigmoid", "Relu"], "states": (state, "")}
    (y, *_), kinds = network.recurrent("GRU", network.input("T", 3, FEATURES), FEATURES, units, **options)
    constant, live = (np.flatnonzero(kinds == kind) for kind in ("constant", "live"))
    recurrent, biases = (
        network.weights[name].reshape(*shape) for name, shape in (("weight_2", (3, 7, 7)), ("weight_3", (2, 3, 7)))
    )
    recurrent[np.ix_(range(3), live, constant)] = 0.5
    recurrent[2][constant] = 0
    biases[1, 2, constant] = 0
    biases[0, 2, constant] = np.abs(biases[0, 2, constant])
    network.weights[state][..., constant] = biases[0, 2, constant]
    result = checked(network.model(network.head(network.joined(y, 7), kinds), ["T", 3, OUT]), False)
    kept = 4 if reset_last else 7
    more = [(1, 3, kept)] + [(OUT,)] * reset_last
    assert weights(result.model) == expected(layer_shapes("GRU", 1, FEATURES, kept), [(kept, OUT)], more)


def test_initial_state_of_the_caller_stays() -> None:
    """A state that comes in as a graph input has all its units."""
    network, units = RecurrentNetwork(), Units(4, dead=3)
    x, state = network.input("T", "B", FEATURES), network.input(1, "B", units.total)
    (y, *_), kinds = network.recurrent("GRU", x, FEATURES, units, states=(state, ""))
    result = checked(network.model(network.head(network.joined(y, units.total), kinds), ["T", "B", OUT]))
    assert result.plan.empty


def test_coupled_gates_can_turn_the_sign() -> None:
    """A forget gate of 1 - i is below 0 where i is above 1, so that nothing is known of the signs."""
    network, units = RecurrentNetwork(), Units(4)
    x = network.node("Abs", network.input("T", "B", FEATURES))
    options = {"activations": ["Relu", "Relu", "Softsign"], "input_forget": 1}
    (y, *_), kinds = network.recurrent("LSTM", x, FEATURES, units, **options)
    for weight in network.weights.values():
        np.abs(weight, out=weight)
    turned = network.node("Relu", network.node("Neg", network.joined(y, 4)))
    model = network.model(network.head(turned, kinds), ["T", "B", OUT])
    assert np.abs(run(model, feeds(model))[0]).max() > 1e-3
    assert weights(checked(model, False).model) == weights(model)


def test_decoder_starts_from_the_encoder() -> None:
    """Units of two layers that hand their state on leave together."""
    network, units = RecurrentNetwork(), Units(4, dead=3, zero=3)
    x = network.input("T", "B", FEATURES)
    (_, hidden, cell), kinds = network.recurrent("LSTM", x, FEATURES, units)
    seed = network.random
    network.random = np.random.default_rng(0)  # the same units in the same order
    (y, *_), kinds = network.recurrent("LSTM", x, FEATURES, units, states=(hidden, cell))
    network.random = seed
    result = checked(network.model(network.head(network.joined(y, units.total), kinds), ["T", "B", OUT]))
    shapes = layer_shapes("LSTM", 1, FEATURES, 4)
    assert weights(result.model) == expected(shapes, shapes, [(4, OUT)])


@pytest.mark.parametrize("op", OPS)
def test_lengths_of_their_own(op: str) -> None:
    """Behind the end of a sequence there are zeros, so that only what is zero anyway is constant."""
    network, units = RecurrentNetwork(), Units(4, dead=3, zero=3, constant=2 * (op == "RNN"))
    x, lengths = network.input("T", "B", FEATURES), network.input("B", kind=onnx.TensorProto.INT32)
    (y, *_), kinds = network.recurrent(op, x, FEATURES, units, directions=2, lengths=lengths)
    result = checked(network.model(network.head(network.joined(y, 2 * units.total), kinds), ["T", "B", OUT]), False)
    kept = 4 + units.constant
    assert weights(result.model) == expected(layer_shapes(op, 2, FEATURES, kept), [(2 * kept, OUT)])


@pytest.mark.parametrize("output", [0, 1, 2])
def test_constant_features(output: int) -> None:
    """A constant that goes in joins the biases; every output of the layer is narrowed, whichever is read."""
    network, units = RecurrentNetwork(), Units(4, dead=2)
    first = network.drawn(7, FEATURES).T
    first[:, [1, 4]] = 0
    bias = network.drawn(7)
    x = network.node("MatMul", network.input("T", "B", FEATURES), network.weight(first))
    x = network.node("Tanh", network.node("Add", x, network.weight(bias)))
    kernel = f"weight_{len(network.weights)}"
    outputs, kinds = network.recurrent("LSTM", x, 7, units, bias=False)
    network.weights[kernel][..., 6] = 0
    y = network.joined(outputs[0], units.total) if output == 0 else outputs[output]
    result = checked(network.model(network.head(y, kinds), ["T" if output == 0 else 1, "B", OUT]))
    shapes = [(FEATURES, 4), (4,), *layer_shapes("LSTM", 1, 4, 4), (4, OUT)]
    assert weights(result.model) == sorted(shapes)


def test_vector_for_the_features() -> None:
    """The bias of a layer in front joins the biases of the gates."""
    network, units = RecurrentNetwork(), Units(4)
    x = network.node("MatMul", network.input("T", "B", FEATURES), network.weight(network.drawn(6, FEATURES).T))
    branch = network.node("MatMul", network.node("Relu", x), network.weight(np.zeros((6, 6))))
    x = network.node("Add", x, network.node("Add", branch, network.weight(network.drawn(6))))
    (y, *_), kinds = network.recurrent("GRU", x, 6, units)
    result = checked(network.model(network.head(network.joined(y, 4), kinds), ["T", "B", OUT]))
    assert weights(result.model) == expected([(FEATURES, 6), (4, OUT)], layer_shapes("GRU", 1, 6, 4))
    assert "Add" not in {node.op_type for node in result.model.graph.node}


def test_constant_units_that_only_the_head_reads() -> None:
    network, units = RecurrentNetwork(), Units(4, zero=1, constant=3)
    (y, *_), kinds = network.recurrent("RNN", network.input("T", "B", FEATURES), FEATURES, units)
    result = checked(network.model(network.head(network.joined(y, 8), kinds), ["T", "B", OUT]))
    assert weights(result.model) == expected(layer_shapes("RNN", 1, FEATURES, 4), [(4, OUT), (OUT,)])


def test_constant_unit_that_the_recurrence_reads_stays() -> None:
    """Before the first step it is 0, so that no bias can stand for it."""
    network, units = RecurrentNetwork(), Units(4, constant=3)
    (y, *_), kinds = network.recurrent("RNN", network.input("T", "B", FEATURES), FEATURES, units)
    recurrent = network.weights["weight_1"][0]
    recurrent[np.ix_(kinds == "live", kinds == "constant")] = 0.5
    result = checked(network.model(network.head(network.joined(y, 7), kinds), ["T", "B", OUT]))
    assert result.plan.empty


@pytest.mark.parametrize("agree", [True, False])
def test_two_layers_of_the_same_weights(agree: bool) -> None:
    """They are stored once: what one of them needs stays in both, where two copies would be larger."""
    network, units = RecurrentNetwork(), Units(6, dead=3)
    x, other = network.input("T", "B", FEATURES), network.input("T", "B", FEATURES)
    (y, *_), kinds = network.recurrent("GRU", x, FEATURES, units)
    dead = kinds == "dead"
    network.weights["weight_1"].reshape(3, 9, 9)[:, np.outer(dead, dead)] = 0
    inputs = [other, *network.nodes[-1].input[1:4]]
    z, _ = network.node("GRU", *inputs, outputs=2, hidden_size=units.total)
    wanted = np.where(np.arange(9) == np.argmax(dead), "live", kinds) if not agree else kinds
    y, z = (network.head(network.joined(part, 9), own) for part, own in ((y, kinds), (z, wanted)))
    result = checked(network.model(network.node("Add", y, z), ["T", "B", OUT]), False)
    kept = 6 if agree else 7
    assert weights(result.model) == expected(layer_shapes("GRU", 1, FEATURES, kept), [(kept, OUT)] * 2)


def test_batch_in_front() -> None:
    """The layout that onnxruntime does not run."""
    network, units = RecurrentNetwork(), Units(4, dead=3, zero=3)
    (y, *_), kinds = network.recurrent("LSTM", network.input("B", "T", FEATURES), FEATURES, units, layout=1)
    y = network.node("Reshape", y, network.weight([0, 0, units.total], np.int64))
    model = network.model(network.head(y, kinds), ["B", "T", OUT])
    result = minimize(model).model
    assert deviation(in_double(model, feeds(model)), in_double(result, feeds(model))) <= DOUBLE
    assert weights(result) == expected(layer_shapes("LSTM", 1, FEATURES, 4), [(4, OUT)])


def test_unknown_activation_stays_with_the_reason() -> None:
    network, units = RecurrentNetwork(), Units(4, dead=2)
    x = network.node("MatMul", network.input("T", "B", 2), network.weight(network.drawn(2, FEATURES)))
    (y, *_), kinds = network.recurrent("RNN", x, FEATURES, units, activations=["Cosine"])
    model = network.model(network.head(network.joined(y, 6), kinds), ["T", "B", OUT])
    result = minimize(model, narrowing=False)
    assert weights(result.model) == weights(model)
    assert result.report.stayed == {"read by an operator without a rule: RNN with Cosine": FEATURES}


def test_computed_weights_stay_with_the_reason() -> None:
    network = RecurrentNetwork()
    x = network.node("MatMul", network.input("T", "B", 2), network.weight(network.drawn(2, FEATURES)))
    kernel = network.input(1, 3 * 4, FEATURES)
    y, _ = network.node("GRU", x, kernel, network.weight(network.drawn(1, 12, 4)), outputs=2, hidden_size=4)
    model = network.model(
        network.head(network.joined(y, 4), np.array(["live", "live", "dead", "dead"])), ["T", "B", OUT]
    )
    result = checked(model)
    assert weights(result.model) == weights(model)
    assert "its reader computes its weights at run time: GRU" in result.report.stayed
