"""DynamicQuantizeLSTM: units and features of zeros leave, and the rest gives the same bits.

What is multiplied is encoded by a scale that comes from the largest of all elements, so that nothing else may go: not
what nobody reads, and no other constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from tests.support.planted.checks import minimize, run
from tests.support.planted.recurrent_networks import FEATURES, OUT, RecurrentNetwork, Units, feeds
from tests.support.quantizers import dynamic

Array = npt.NDArray[Any]
NUMBERS = {1: (8, 9), 2: (10, 11)}
CODED = "DynamicQuantizeLSTM"


def quantized(model: onnx.ModelProto, per_channel: bool) -> onnx.ModelProto:
    return dynamic(model, "LSTM", per_channel=per_channel)


def unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose codes of weights are uint8, with a zero point of its own for each direction."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for weight, (_, zero) in NUMBERS.items() if node.op_type == CODED else ():
            shift = 100 + 7 * np.arange(len(stored[node.input[weight]]))
            stored[node.input[weight]] = (stored[node.input[weight]] + shift[:, None, None]).astype(np.uint8)
            stored[node.input[zero]] = shift.astype(np.uint8)
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    return model


def checked(model: onnx.ModelProto) -> sq.Result:
    """Minimize, and demand the same bits for two lengths and two sizes of the batch."""
    result = minimize(model, narrowing=False)
    for steps, batch in ((1, 1), (6, 3), (3, 8)):
        given = feeds(model, steps, batch)
        for optimized in (False, True):
            for before, after in zip(run(model, given, optimized), run(result.model, given, optimized), strict=True):
                np.testing.assert_array_equal(before, after)
    return result


def layer(directions: int, features: int, units: int) -> list[tuple[int, ...]]:
    """Return the shapes of the constants of a layer, scales and zero points left out."""
    return [(directions, features, 4 * units), (directions, units, 4 * units), (directions, 8 * units)]


def shapes(result: sq.Result) -> list[tuple[int, ...]]:
    """Return the shapes of all weights and biases in a result."""
    numbers = {
        node.input[place] for node in result.model.graph.node if node.op_type == CODED for place in (8, 9, 10, 11)
    }
    tensors = result.model.graph.initializer
    return sorted(tuple(one.dims) for one in tensors if one.name not in numbers and one.data_type != TensorProto.INT64)


def stayed(result: sq.Result) -> str:
    return " ".join(reason for row in result.report.layers for reason in row.stayed)


@pytest.mark.parametrize("form", ["per layer", "per channel", "unsigned"])
@pytest.mark.parametrize("directions", [1, 2])
def test_zeros_leave_and_what_nobody_reads_stays(form: str, directions: int) -> None:
    """A dead unit may be the largest state."""
    network, units, more = RecurrentNetwork(), Units(4, dead=2, zero=3), Units(3, dead=1, zero=2)
    (y, *_), _ = network.recurrent("LSTM", network.input("T", "B", FEATURES), FEATURES, units, directions=directions)
    inner = directions * units.total
    kernel = f"weight_{len(network.weights) + 1}"
    (y, *_), kinds = network.recurrent("LSTM", network.joined(y, inner), inner, more, directions=directions)
    network.weights[kernel][..., network.kinds[0] == "dead"] = 0
    y = network.joined(y, directions * more.total)
    model = quantized(network.model(network.head(y, kinds), ["T", "B", OUT]), form == "per channel")
    result = checked(unsigned(model) if form == "unsigned" else model)
    wanted = [*layer(directions, FEATURES, 6), *layer(directions, 6 * directions, 4), (4 * directions, OUT)]
    assert shapes(result) == sorted(wanted)
    assert [node.op_type for node in result.model.graph.node if node.domain] == [CODED] * 2
    first = result.report.layers[0]
    assert (first.dead, first.removed) == (2 * directions, 3 * directions)
    assert "its reader measures it" in stayed(result)
    assert first.dtype == ("uint8" if form == "unsigned" else "int8")


def test_variants() -> None:
    """Peepholes, coupled gates, lengths, initial states and a clip: all is sliced that has the units along an axis."""
    network, units = RecurrentNetwork(), Units(4, zero=3)
    x = network.input("T", "B", FEATURES)
    states = [network.input(1, "B", units.total) for _ in range(2)]
    lengths = network.input("B", kind=TensorProto.INT32)
    names, kinds = network.recurrent(
        "LSTM", x, FEATURES, units, peephole=True, input_forget=1, clip=0.8, lengths=lengths
    )
    model = quantized(network.model(network.head(network.joined(names[0], 7), kinds), ["T", "B", OUT]), True)
    assert shapes(checked(model)) == sorted([*layer(1, FEATURES, 4), (1, 12), (4, OUT)])
    assert states


def test_states_that_are_given_keep_their_units() -> None:
    """A unit that is not 0 at first is not 0."""
    network, units = RecurrentNetwork(), Units(4, zero=3)
    x, states = network.input("T", "B", FEATURES), [network.input(1, "B", units.total) for _ in range(2)]
    names, kinds = network.recurrent("LSTM", x, FEATURES, units, states=states)
    model = quantized(network.model(network.head(network.joined(names[0], 7), kinds), ["T", "B", OUT]), False)
    assert shapes(checked(model)) == sorted([*layer(1, FEATURES, 7), (7, OUT)])


@pytest.mark.parametrize(
    ("bias", "left"), [((0, 0), 4), ((0.6, 0.6), 6), ((-0.6, 0.3), 6), ((0.6, 0.3), 6), ((0, 0.3), 5)]
)
def test_features_that_are_constant(bias: tuple[float, float], left: int) -> None:
    """Zeros leave, whoever reads them; another constant is rounded by a scale that nobody knows beforehand."""
    network, units = RecurrentNetwork(), Units(4)
    x = network.input("T", "B", FEATURES)
    matrix, offset = network.drawn(6, FEATURES).T, np.zeros(6)
    matrix[:, [1, 4]], offset[[1, 4]] = 0, bias
    x = network.node("Add", network.node("MatMul", x, network.weight(matrix)), network.weight(offset))
    (y, *_), kinds = network.recurrent("LSTM", x, 6, units)
    model = quantized(network.model(network.head(network.joined(y, 4), kinds), ["T", "B", OUT]), False)
    assert (1, left, 16) in shapes(checked(model))


def test_a_unit_that_is_constant_stays() -> None:
    """Two are what they are before the first step as well, so that an LSTM of real numbers folds them into biases."""
    network = RecurrentNetwork()
    x = network.input("T", 3, FEATURES)
    constants = np.array([0, 0.25, 0.5, 0])
    states = [network.weight(np.tile(constants, (1, 3, 1))) for _ in range(2)]
    kernel = f"weight_{len(network.weights)}"
    curves = {"activations": ["HardSigmoid", "Relu", "Relu"], "activation_alpha": [0.2], "activation_beta": [0.5]}
    names, kinds = network.recurrent("LSTM", x, FEATURES, Units(4), states=states, **curves)
    position = int(kernel.split("_")[1])
    weights, recurrent, biases = (network.weights[f"weight_{position + place}"] for place in range(3))
    for gate, bias in enumerate((5, 5, -5, constants[1:3])):  # in, out, not kept, new
        weights.reshape(4, 4, -1)[gate, 1:3], recurrent.reshape(4, 4, 4)[gate, 1:3] = 0, 0
        biases.reshape(2, 4, 4)[0, gate, 1:3], biases.reshape(2, 4, 4)[1, gate, 1:3] = bias, 0
    model = network.model(network.head(network.joined(names[0], 4), kinds), ["T", 3, OUT])
    assert (1, 8, 2) in shapes(minimize(model, narrowing=False))
    assert (1, 4, 16) in shapes(checked(quantized(model, True)))


def test_what_is_small_beside_something_large_is_rounded_away() -> None:
    """The bounds of units hold for what the weights read, which may be far off from what was encoded."""
    network, units = RecurrentNetwork(), 4
    low, high = network.weight([-50.0, 0.05, 0.05, 0.05, 0.05]), network.weight([50.0, 0.08, 0.08, 0.08, 0.08])
    x = network.node("Min", network.node("Max", network.input("T", "B", FEATURES), low), high)
    kernel = np.zeros((1, 4, units, FEATURES))
    recurrent, bias = np.zeros((1, 4, units, units)), np.zeros((1, 2, 4, units))
    kernel[:, 3, 0, 0] = 1  # the state of unit 0 is what the first feature is
    kernel[:, 3, 1, 1:] = 1  # that of unit 1 the sum of the others
    bias[0, 0, 3, 2] = 0.1  # that of unit 2 is this
    recurrent[:, 3, 3, 2] = 1  # and that of unit 3 what unit 2 was
    bias[0, 0, :3] = np.array([5, 5, -5])[:, None]
    weights = [network.weight(kernel.reshape(1, 16, -1)), network.weight(recurrent.reshape(1, 16, -1))]
    curves = {"activations": ["HardSigmoid", "Relu", "Relu"], "activation_alpha": [0.2], "activation_beta": [0.5]}
    y = network.node("LSTM", x, *weights, network.weight(bias.reshape(1, -1)), hidden_size=units, **curves)
    float_model = network.model(y, ["T", 1, "B", units])
    coded = quantized(float_model, True)
    exact, rounded = (analyse(load(model)).context.interval(y) for model in (float_model, coded))
    given = {"input_0": 40 * np.random.default_rng(0).standard_normal((9, 2, FEATURES)).astype("f")}
    (found,) = run(coded, given, False)
    assert inside(found, rounded)
    assert not inside(found[..., 1:2], part(exact, 1, 2)), "it is the features that are rounded"
    assert not inside(found[..., 3:], part(exact, 3, 4)), "it is the states as well"


def inside(array: Array, interval: Interval) -> bool:
    return bool((array >= interval.lower).all() and (array <= interval.upper).all())


def part(interval: Interval, start: int, end: int) -> Interval:
    return Interval(interval.lower[..., start:end], interval.upper[..., start:end])


@pytest.mark.parametrize("bounded", [False, True])
def test_features_that_nobody_reads_may_be_the_largest(bounded: bool) -> None:
    """Unless they lie between 0 and a constant that stays: all else that is a sigmoid is below the largest one."""
    network, units = RecurrentNetwork(), Units(4)
    x = network.input("T", "B", FEATURES)
    matrix, offset = network.drawn(6, FEATURES).T, np.zeros(6)
    if bounded:
        matrix[:, 0], offset[0] = 0, 40.0
    x = network.node("Add", network.node("MatMul", x, network.weight(matrix)), network.weight(offset))
    kernel = f"weight_{len(network.weights)}"
    (y, *_), kinds = network.recurrent("LSTM", network.node("Sigmoid", x), 6, units)
    network.weights[kernel][..., [2, 3]] = 0
    model = quantized(network.model(network.head(network.joined(y, 4), kinds), ["T", "B", OUT]), False)
    result = checked(model)
    assert (1, 4 if bounded else 6, 16) in shapes(result)
    assert "its reader measures it" in stayed(result)


def test_a_direction_that_nobody_reads_leaves() -> None:
    network, units = RecurrentNetwork(), Units(4, zero=2)
    (y, *_), kinds = network.recurrent("LSTM", network.input("T", "B", FEATURES), FEATURES, units, directions=2)
    kinds.reshape(2, -1)[0] = "dead"
    for per_channel in (False, True):
        model = quantized(network.model(network.head(network.joined(y, 12), kinds), ["T", "B", OUT]), per_channel)
        result = checked(model)
        assert shapes(result) == sorted([*layer(1, FEATURES, 4), (4, OUT)])
        network.nodes.pop()


def test_a_weight_that_is_computed_or_does_not_fit_is_refused() -> None:
    network, units = RecurrentNetwork(), Units(4, zero=2)
    (y, *_), kinds = network.recurrent("LSTM", network.input("T", "B", FEATURES), FEATURES, units)
    model = quantized(network.model(network.head(network.joined(y, 6), kinds), ["T", "B", OUT]), False)
    (node,) = (node for node in model.graph.node if node.op_type == CODED)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[8])
    model.graph.initializer.remove(scale)
    model.graph.input.append(helper.make_tensor_value_info(scale.name, scale.data_type, list(scale.dims)))
    result = sq.minimize(model, verify=False)
    assert "the weight is computed" in stayed(result) or result.report.weights_after == result.report.weights_before
