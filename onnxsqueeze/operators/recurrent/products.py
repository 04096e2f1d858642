"""The matrices of a recurrent layer: features are multiplied by the kernel, states by the recurrent weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Array, Floats
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.recurrent.coded_weight import KERNEL, RECURRENT
from onnxsqueeze.operators.recurrent.layer import BIAS, DATA, Layer
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.parameters import along
from onnxsqueeze.rules.products import Product

_FEATURES_AXIS = 2
_RESET = 1  # the gate of GRU's three


def products_of(node: Node, context: Context, layer: Layer, free: bool) -> list[Product]:
    """Return the matrices of a node.

    Args:
        free: whether states begin at zero and none ends early; of others it is not known what the weights read.
    """
    width = layer.kernel.shape[1] * layer.units
    features = np.broadcast_to(along(context, node.inputs[DATA], _FEATURES_AXIS), (layer.directions, layer.features))
    found = [
        Product(
            node.inputs[DATA],
            node.inputs[KERNEL],
            slice(0, width),
            node.input(BIAS),
            slice(0, width),
            features,
            lambda data: np.stack([data.reshape(-1, layer.features)] * layer.directions),
        )
    ]
    return [*found, *_recurrent(node, context, layer, width)] if free else found


def _recurrent(node: Node, context: Context, layer: Layer, width: int) -> list[Product]:
    """Return what is multiplied by states; where GRU's reset is in front, the last gate reads what that leaves."""
    ids = layer.by_unit(context.ids(node.outputs[0]))
    backward = [_direction(node) == "reverse"] if layer.directions == 1 else [False, True]

    def product(gates: slice, reset: bool = False) -> Product:
        def rows(states: Array, *data: Array) -> Array:
            before = _one_step_before(states, layer, backward)
            return before * _reset(before, data[0], layer) if data else before

        part, beside = slice(width + gates.start, width + gates.stop), node.inputs[DATA] if reset else ""
        return Product(node.outputs[0], node.inputs[RECURRENT], gates, node.input(BIAS), part, ids, rows, True, beside)

    if layer.op != "GRU" or layer.linear_before_reset:
        return [product(slice(0, width))]
    last = width - layer.units
    return [product(slice(0, last)), product(slice(last, width), reset=True)]


def _direction(node: Node) -> str:
    given = node.attributes.get("direction", "forward")
    return given.decode() if isinstance(given, bytes) else str(given)


def _one_step_before(states: Array, layer: Layer, backward: Sequence[bool]) -> Array:
    """Return the states that are multiplied at each step, [D, steps * batch, H]; the first are zeros."""
    ordered = states.transpose(2, 1, 0, 3) if layer.batch_first else states.transpose(1, 0, 2, 3)  # [D, T, B, H]
    found = np.zeros_like(ordered)
    for direction, reverse in enumerate(backward):
        if reverse:
            found[direction, :-1] = ordered[direction, 1:]
        else:
            found[direction, 1:] = ordered[direction, :-1]
    return np.asarray(found.reshape(len(backward), -1, layer.units))


def _reset(before: Array, data: Array, layer: Layer) -> Floats:
    """Return by what the reset multiplies states before the last gate reads them, [D, steps * batch, H]."""
    features = (data.swapaxes(0, 1) if layer.batch_first else data).reshape(-1, layer.features)
    found = np.empty(before.shape)
    for direction, (gate, *_) in enumerate(layer.activations):
        total = features @ layer.kernel[direction, _RESET].T + before[direction] @ layer.recurrent[direction, _RESET].T
        found[direction] = gate.value(total + layer.biases[:, direction, _RESET].sum(axis=0), layer.clip)
    return found
