"""One view of LSTM, GRU, RNN and DynamicQuantizeLSTM: weights by direction, gate and unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Floats, all_finite
from onnxsqueeze.abstract.curves import ElementwiseFunction, elementwise_function_of, interval_of
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.view import constant_weight
from onnxsqueeze.operators.recurrent.coded_weight import KERNEL, RECURRENT, coded_weight
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.memo import per_node

DATA, BIAS, LENGTHS, HIDDEN, CELL, PEEPHOLE = 0, 3, 4, 5, 6, 7
"""The positions of the inputs beside the weights."""

CODED = "DynamicQuantizeLSTM"
"""The LSTM whose weights are codes, and which encodes what it multiplies by them, by scales that it measures."""

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_FUNCTIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_PARAMETERS = ("alpha", "beta")
_OWN_CURVES = {
    "affine": ElementwiseFunction(lambda x, alpha, beta: alpha * x + beta, parameters=(("alpha", 1.0), ("beta", 0.0))),
    "scaledtanh": ElementwiseFunction(
        lambda x, alpha, beta: alpha * np.tanh(beta * x), parameters=(("alpha", None), ("beta", None))
    ),
}
_CURVES = ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu", "Softsign", "Softplus")
_CURVES_BY_NAME = {name.lower(): elementwise_function_of(name) for name in _CURVES} | _OWN_CURVES


@dataclass(frozen=True)
class Activation:
    """One activation function of a direction.

    Attributes:
        name: as the node spells it. curve: the function. parameters: what the node gives for it, by name.
    """

    name: str
    curve: ElementwiseFunction
    parameters: tuple[tuple[str, float], ...]

    @property
    def _given(self) -> list[float | None]:
        given = dict(self.parameters)
        return [given.get(name, default) for name, default in self.curve.parameters]

    def value(self, x: Floats, clip: float) -> Floats:
        """Return the function's values, its argument clipped to ``[-clip, clip]`` unless that is 0."""
        return np.asarray(self.curve.value(np.clip(x, -clip, clip) if clip else x, *self._given))

    def interval_of(self, interval: Interval, clip: float) -> Interval:
        """Return the interval of the function's values, clipped likewise."""
        if clip:
            interval = Interval(np.clip(interval.lower, -clip, clip), np.clip(interval.upper, -clip, clip))
        falls = any(value is not None and value < 0 for value in self._given)
        return interval_of(
            interval, lambda x: self.curve.value(x, *self._given), self.curve, 0 if falls else self.curve.direction
        )


@dataclass(frozen=True)
class Layer:
    """One recurrent node with constant weights.

    D directions, G gates in the operator's order, H units, I input features.

    Attributes:
        op: the operator, LSTM for both kinds of it.
        kernel, recurrent: the weights as views [D, G, H, I] and [D, G, H, H].
        biases: float64 [2, D, G, H], of the input and of the recurrence; zeros where there are none.
        peephole: float64 [D, 3, H], zeros where there is none.
        activations: by direction.
        clip: bound of what goes into an activation, 0 for none.
        batch_first: whether the batch is the first axis (``layout``).
        linear_before_reset, coupled: GRU's order of its reset, LSTM's ``input_forget``.
        codes: by position the codes of a weight, as a view like that of the weight itself; none of real numbers.
    """

    op: str
    kernel: Array
    recurrent: Array
    biases: Floats
    peephole: Floats
    activations: tuple[tuple[Activation, ...], ...]
    clip: float
    batch_first: bool
    linear_before_reset: bool
    coupled: bool
    codes: Mapping[int, Array]

    @property
    def measures(self) -> bool:
        """Whether features and states are encoded by scales that are measured each time."""
        return bool(self.codes)

    @property
    def directions(self) -> int:
        """The number of directions."""
        return int(self.kernel.shape[0])

    @property
    def units(self) -> int:
        """The number of hidden units of each direction."""
        return int(self.kernel.shape[2])

    @property
    def features(self) -> int:
        """The number of input features."""
        return int(self.kernel.shape[3])

    def stored(self, position: int) -> Array:
        """Return a weight as it is stored, codes or real numbers; a view [D, G, H, I or H]."""
        return self.codes.get(position, self.kernel if position == KERNEL else self.recurrent)

    def placed(self, units: npt.NDArray[Any], rank: int) -> npt.NDArray[Any]:
        """Return an array [D, H] in the (compact) layout of an output or a state of a rank."""
        shape = [1] * rank
        shape[self.direction_axis(rank)], shape[-1] = units.shape
        return units.reshape(shape)

    def direction_axis(self, rank: int) -> int:
        """Return the axis of the directions in an output or a state of a rank."""
        return rank - 3 + self.batch_first

    def by_unit(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a compact array of an output or a state, told apart by directions and units alone, [D, H]."""
        shape = [1] * array.ndim
        shape[self.direction_axis(array.ndim)], shape[-1] = self.directions, self.units
        return np.broadcast_to(array, shape).reshape(self.directions, self.units)


@per_node
def layer_of(node: Node, context: Context) -> Layer | Refusal:
    """Return the view of a recurrent node, or why there is none."""
    found = _weights(node, context)
    if isinstance(found, Refusal):
        return found
    weights, codes = found
    activations = _activations(node, weights[KERNEL].shape[0])
    if isinstance(activations, Refusal):
        return activations
    if not context.is_activation(node.inputs[DATA]):
        return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} of a constant")
    directions, gates, units = weights[RECURRENT].shape[0], _GATES[_kind(node)], weights[RECURRENT].shape[2]
    shape = (directions, gates, units)
    biases: Floats = np.zeros((2, *shape))
    peephole: Floats = np.zeros((directions, 3, units))
    if BIAS in weights:
        biases = weights[BIAS].astype(np.float64).reshape(directions, 2, gates, units).swapaxes(0, 1)
    if PEEPHOLE in weights:
        peephole = weights[PEEPHOLE].astype(np.float64).reshape(peephole.shape)
    return Layer(
        op=_kind(node),
        kernel=weights[KERNEL].reshape(*shape, -1),
        recurrent=weights[RECURRENT].reshape(*shape, units),
        biases=biases,
        peephole=peephole,
        activations=activations,
        clip=float(node.attributes.get("clip", 0.0)),
        batch_first=bool(node.attributes.get("layout", 0)),
        linear_before_reset=bool(node.attributes.get("linear_before_reset", 0)),
        coupled=bool(node.attributes.get("input_forget", 0)),
        codes={position: array.reshape(*shape, -1) for position, array in codes.items()},
    )


def _kind(node: Node) -> str:
    return "LSTM" if node.op == CODED else node.op


def _weights(node: Node, context: Context) -> tuple[dict[int, Array], dict[int, Array]] | Refusal:
    """Return what weights and biases are in real numbers, and the codes of those that have some."""
    weights: dict[int, Array] = {}
    codes: dict[int, Array] = {}
    for position in (KERNEL, RECURRENT, BIAS, PEEPHOLE):
        if not node.input(position):
            continue
        coded = node.op == CODED and position in (KERNEL, RECURRENT)
        found = (coded_weight if coded else constant_weight)(node, context, position)
        if isinstance(found, Refusal):
            return found
        if isinstance(found, tuple):
            weights[position], codes[position] = found
        else:
            weights[position] = found
        if not all_finite(weights[position]):
            return Refusal(Reason.NOT_FINITE, node.input(position))
    return weights, codes


def _activations(node: Node, directions: int) -> tuple[tuple[Activation, ...], ...] | Refusal:
    """Pair the functions with their parameters, which are listed for those functions alone that have them."""
    names = [_text(name) for name in node.attributes.get("activations", ())] or list(
        _FUNCTIONS[_kind(node)]
    ) * directions
    given = {kind: iter(node.attributes.get(f"activation_{kind}", ())) for kind in _PARAMETERS}
    found = []
    for name in names:
        curve = _CURVES_BY_NAME.get(name.lower())
        if curve is None:
            return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} with {name}")
        own = {kind: next(given[kind], default) for kind, default in curve.parameters}
        if None in own.values():
            return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} with {name} of no given scale")
        found.append(Activation(name, curve, tuple((kind, float(value)) for kind, value in own.items())))
    count = len(_FUNCTIONS[_kind(node)])
    if len(found) != count * directions:
        return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} with {len(found)} activations")
    return tuple(tuple(found[start : start + count]) for start in range(0, len(found), count))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def written(activations: Sequence[Activation]) -> dict[str, list[Any]]:
    """Return the attributes that list activations, those with nothing to say empty."""
    parameters = [dict(activation.parameters) for activation in activations]
    lists: dict[str, list[Any]] = {"activations": [activation.name for activation in activations]}
    for kind in _PARAMETERS:
        lists[f"activation_{kind}"] = [own[kind] for own in parameters if kind in own]
    return lists
