"""Recurrent layers over tokens, with masked units, states and what else an LSTM, GRU or RNN can have."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.end_to_end.random_networks.network import Array, Tensor
from tests.end_to_end.random_networks.normalized import mean
from tests.end_to_end.random_networks.stream import TokenNetwork

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
OTHERS = {"Sigmoid": ("Sigmoid", "HardSigmoid"), "Tanh": ("Tanh", "Relu", "Softsign")}


def recurrent(net: TokenNetwork, x: Tensor) -> Tensor | None:
    """Run over the tokens in one or both directions; go on with all states or with the last."""
    if net.dtype is not np.float32 or x.rank != 3:
        return None
    op, hidden = net.pick(*GATES), net.whole(2, 6)
    direction = net.pick("forward", "forward", "reverse", "bidirectional")
    count = 2 if direction == "bidirectional" else 1
    options: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        options["linear_before_reset"] = net.pick(0, 1)
    if net.chance(0.2):
        options["activations"] = [net.pick(*OTHERS[name]) for name in ACTIVATIONS[op]] * count
    if net.chance(0.1):
        options["clip"] = 0.8
    turned = net.add("Transpose", x, perm=[1, 0, 2])
    weights = _weights(net, op, count, hidden, x.width)
    results = net.split(
        op, turned, *weights, *_states(net, op, count, hidden, x), outputs=3 if op == "LSTM" else 2, **options
    )
    if net.chance(0.3):  # the last states: [directions, batch, hidden]
        last = net.add("Transpose", net.pick(*results[1:]), perm=[1, 0, 2])
        return net.written(net.add("Reshape", last, net.integers(0, 1, count * hidden)), x.width)
    y = results[0]  # [tokens, directions, batch, hidden]
    if count == 1 and net.chance(0.6):
        y = net.add("Transpose", net.with_axes("Squeeze", y, [1]), perm=[1, 0, 2])
    else:
        y = net.add("Reshape", net.add("Transpose", y, perm=[2, 0, 1, 3]), net.integers(0, 0, count * hidden))
    return net.written(y, x.width)


def _weights(net: TokenNetwork, op: str, count: int, hidden: int, width: int) -> list[Tensor | None]:
    """Store weights, of which some units have none, and are read by no other unit or by all; and biases."""
    gates = GATES[op]
    lacking = net.random.random((count, 1, hidden, 1)) < 0.4
    read = net.normal(count, gates, hidden, width) * 0.5 * ~lacking
    states = net.normal(count, gates, hidden, hidden) * 0.5 * ~lacking
    if net.chance(0.5):
        states *= ~(np.moveaxis(lacking, 2, 3) | (net.random.random((count, 1, 1, hidden)) < 0.2))
    stored = [net.constant(array.reshape(count, gates * hidden, -1)) for array in (read, states)]
    if net.chance(0.8):
        biases = net.sparse(count, 2, gates, hidden) * ~(lacking[:, None, ..., 0] & net.chance(0.5))
        return [*stored, net.constant(biases.reshape(count, -1))]
    return [*stored, None]


def _states(net: TokenNetwork, op: str, count: int, hidden: int, x: Tensor) -> list[Tensor | None]:
    """Add initial states, constant for a fixed batch or computed from the tokens, and peepholes; or nothing."""
    if net.chance(0.6):
        return []
    states: list[Tensor | None] = [_state(net, count, hidden, x) for _ in range(2 if op == "LSTM" else 1)]
    peepholes: list[Tensor | None] = []
    if op == "LSTM" and net.chance(0.4):
        values: Array = net.sparse(count, 3 * hidden) * 0.5
        peepholes = [net.constant(values)]
    return [None, *states, *peepholes]  # the lengths of sequences are absent


def _state(net: TokenNetwork, count: int, hidden: int, x: Tensor) -> Tensor:
    batches = {shape[0] for shape in x.shapes}
    if len(batches) == 1 and net.chance(0.5):
        return net.constant(net.sparse(count, batches.pop(), hidden))
    made = net.linear(mean(net, x, 1), count * hidden)
    split = net.add("Reshape", net.add("Tanh", made), net.integers(0, count, hidden))
    return net.add("Transpose", split, perm=[1, 0, 2])
