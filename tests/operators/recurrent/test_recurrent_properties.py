"""Random recurrent networks under random masks: the same function, never larger, and nothing left for a second run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.extent import part
from tests.support.planted.checks import SINGLE, deviation, minimize, run, size
from tests.support.planted.recurrent_networks import GATES, OUT, RecurrentNetwork, Units, feeds

ACTIVATIONS = ("Sigmoid", "Tanh", "HardSigmoid", "Softsign")
BATCH = 3


def options(network: RecurrentNetwork, op: str, directions: int, units: int) -> dict[str, Any]:
    """Draw what a layer may be given."""
    random, found = network.random, {}
    if op == "GRU":
        found["linear_before_reset"] = int(random.integers(2))
    if op == "LSTM":
        found.update(input_forget=int(random.random() < 0.2), peephole=bool(random.random() < 0.3))
    if random.random() < 0.3:
        found["clip"] = float(random.uniform(0.1, 1))
    if random.random() < 0.3:
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[op] * directions
        found["activations"] = [str(name) for name in random.choice(ACTIVATIONS, count)]
    if random.random() < 0.2:
        found["lengths"] = network.input(BATCH, kind=onnx.TensorProto.INT32)
    if random.random() < 0.2:
        started = random.random((directions, 1, units)) < 0.3
        found["states"] = tuple(network.weight(network.drawn(directions, BATCH, units) * started) for _ in range(2))
    return found


def mask(network: RecurrentNetwork, since: int, directions: int, op: str, units: int) -> None:
    """Set rows, columns and scattered weights of a layer to zero."""
    random = network.random
    for name in list(network.weights)[since:]:
        values = network.weights[name]
        if values.ndim == 3:
            by_gate = values.reshape(directions, GATES[op], units, -1)
            by_gate[:, :, random.random(units) < 0.3] = 0
            by_gate[..., random.random(by_gate.shape[-1]) < 0.4] = 0
            by_gate[random.random(by_gate.shape) < 0.7 * random.random()] = 0
        else:
            values[random.random(values.shape) < 0.5] = 0


def network(seed: int) -> onnx.ModelProto:
    """Return one or two layers behind a dense one, read at every step or at the last."""
    made = RecurrentNetwork(seed=seed)
    random = made.random
    op, directions, width = str(random.choice(list(GATES))), int(random.integers(1, 3)), int(random.integers(1, 5))
    first = made.drawn(width, width)
    first[:, random.random(width) < 0.4] = 0
    x = made.node("MatMul", made.input("T", BATCH, width), made.weight(first))
    x = made.node("Relu", made.node("Add", x, made.weight(made.drawn(width) * (random.random(width) < 0.6))))
    for _ in range(int(random.integers(1, 3))):
        units = int(random.integers(1, 7))
        given = options(made, op, directions, units)
        since = len(made.weights)
        outputs, _ = made.recurrent(op, x, width, Units(units), directions=directions, **given)
        mask(made, since, directions, op, units)
        width = directions * units
        x = made.joined(outputs[0], width)
    last = random.random() < 0.4
    head = made.drawn(OUT, units if last else width).T
    head[random.random(len(head)) < 0.5] = 0
    y = made.node("MatMul", outputs[-1] if last else x, made.weight(head))
    return made.model(y, [directions if last else "T", BATCH, OUT])


@pytest.mark.parametrize("seed", range(part(40)))
def test_random_networks(seed: int) -> None:
    model = network(seed)
    result = minimize(model).model
    for steps in (1, 5):
        given = feeds(model, steps, BATCH)
        for optimized in (False, True):
            assert deviation(run(model, given, optimized), run(result, given, optimized)) <= SINGLE
    assert size(minimize(result).model) == size(result)


def test_most_random_networks_shrink() -> None:
    """The masks are such that something can go."""
    models = [network(seed) for seed in range(part(20))]
    assert np.mean([size(minimize(model).model) < size(model) for model in models]) > 0.7
