"""LSTM, GRU, RNN and DynamicQuantizeLSTM: by torch's own kernels where they compute the same, else step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.numbers import optional
from onnxsqueeze.training.lowerings.quantization import decoded, measured
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

Activation = tuple[str, float, float]
"""Its name in lower case, alpha and beta."""

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's gates among ONNX's iofc and zrh
_PARAMETERS = {
    "leakyrelu": (0.01, 0.0),
    "thresholdedrelu": (1.0, 0.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
    "affine": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
}
"""Default alpha and beta of the functions that have any."""
_HAS_BETA = ("hardsigmoid", "affine", "scaledtanh")

_FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "relu": lambda x, alpha, beta: torch.relu(x),
    "tanh": lambda x, alpha, beta: torch.tanh(x),
    "sigmoid": lambda x, alpha, beta: torch.sigmoid(x),
    "softsign": lambda x, alpha, beta: F.softsign(x),
    "softplus": lambda x, alpha, beta: F.softplus(x),
    "leakyrelu": lambda x, alpha, beta: F.leaky_relu(x, alpha),
    "thresholdedrelu": lambda x, alpha, beta: torch.where(x > alpha, x, torch.zeros_like(x)),
    "hardsigmoid": lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1),
    "elu": lambda x, alpha, beta: F.elu(x, alpha),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "scaledtanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
}


class Settings(NamedTuple):
    """The attributes of a node.

    Attributes:
        op: the operator. direction: "forward", "reverse" or "bidirectional".
        activations: of all directions, one after the other. clip: bound of their arguments, 0 for none.
        batch_first: whether the batch is the first axis. after: GRU's ``linear_before_reset``.
        coupled: LSTM's ``input_forget``. measured: whether features and states are encoded before they are multiplied.
    """

    op: str
    direction: str
    activations: tuple[Activation, ...]
    clip: float
    batch_first: bool
    after: bool
    coupled: bool
    measured: bool


class Weights(NamedTuple):
    """The weights of one direction: [gates H, I], [gates H, H], two biases [gates H], and LSTM's peepholes [3 H]."""

    kernel: Tensor
    recurrent: Tensor
    bias: Tensor
    recurrent_bias: Tensor
    peephole: Tensor | None


@leaf
def recurrent(
    data: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    peephole: Tensor | None,
    settings: tuple[str, str, tuple[Activation, ...], float, bool, bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator with its inputs in ONNX's order (layouts: see there).

    Returns:
        The outputs of all steps, the last of each sequence, and its last cell (LSTM).
    """
    way = Settings(*settings)
    if way.batch_first:
        data = data.transpose(0, 1)
        hidden, cell = (None if state is None else state.transpose(0, 1) for state in (hidden, cell))
    directions, units = recurrent_kernel.shape[0], recurrent_kernel.shape[2]
    zeros = data.new_zeros(directions, data.shape[1], units)
    hidden, cell = zeros if hidden is None else hidden, zeros if cell is None else cell
    biases = data.new_zeros(directions, 2 * kernel.shape[1]) if bias is None else bias
    halves = biases.chunk(2, 1)
    weights = [
        Weights(kernel[d], recurrent_kernel[d], halves[0][d], halves[1][d], None if peephole is None else peephole[d])
        for d in range(directions)
    ]
    if _is_usual(way, lengths, peephole):
        outputs, last, cells = _by_kernel(data, weights, hidden, cell, way)
    else:
        outputs, last, cells = _by_steps(data, weights, hidden, cell, lengths, way)
    if way.batch_first:  # [batch, steps, directions, H], [batch, directions, H]
        return outputs.permute(2, 0, 1, 3), last.transpose(0, 1), cells.transpose(0, 1)
    return outputs, last, cells


def _is_usual(way: Settings, lengths: Tensor | None, peephole: Tensor | None) -> bool:
    """Whether torch has a kernel for a node."""
    directions = 2 if way.direction == "bidirectional" else 1
    names = [name for name, _, _ in way.activations]
    usual = names == _DEFAULTS[way.op] * directions or (way.op == "RNN" and names == ["relu"] * directions)
    special = way.clip or way.coupled or way.measured or lengths is not None or peephole is not None
    return usual and not special and (way.op != "GRU" or way.after)


def _by_kernel(
    data: Tensor, weights: Sequence[Weights], hidden: Tensor, cell: Tensor, way: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    given = [_ordered(part, way.op) for one in weights for part in one[:4] if part is not None]
    if way.direction == "reverse":
        data = data.flip(0)
    rest = (True, 1, 0.0, True, len(weights) == 2, False)  # biases, layers, dropout, training, directions, batch first
    if way.op == "LSTM":
        outputs, last, cells = torch.lstm(data, [hidden, cell], given, *rest)
    else:
        kernel = torch.gru if way.op == "GRU" else torch.rnn_tanh if way.activations[0][0] == "tanh" else torch.rnn_relu
        outputs, last = kernel(data, hidden, given, *rest)
        cells = cell
    outputs = outputs.reshape(*data.shape[:2], len(weights), -1).transpose(1, 2)
    return (outputs.flip(0) if way.direction == "reverse" else outputs), last, cells


def _ordered(part: Tensor, op: str) -> Tensor:
    """Return the gates in torch's order."""
    gates = part.chunk(_GATES[op])
    return torch.cat([gates[place] for place in _ORDER[op]]) if len(gates) > 1 else part


def _by_steps(
    data: Tensor, weights: Sequence[Weights], hidden: Tensor, cell: Tensor, lengths: Tensor | None, way: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    count = len(way.activations) // len(weights)
    results = []
    for place, own in enumerate(weights):
        backward = way.direction == "reverse" or place == 1
        chosen = way.activations[place * count : (place + 1) * count]
        results.append(_direction(data, own, (hidden[place], cell[place]), lengths, backward, chosen, way))
    outputs, last, cells = (torch.stack(parts) for parts in zip(*results, strict=True))
    return outputs.transpose(0, 1), last, cells


def _direction(
    data: Tensor,
    weights: Weights,
    state: tuple[Tensor, Tensor],
    lengths: Tensor | None,
    backward: bool,
    activations: Sequence[Activation],
    way: Settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Go through the steps in one direction; a sequence that has ended keeps its state, and its outputs are zeros."""
    step = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}[way.op]
    projected = F.linear(_read(data, way), weights.kernel, weights.bias)
    outputs: list[Tensor] = []
    hidden, cell = state
    order = range(data.shape[0])
    for place in reversed(order) if backward else order:
        new_hidden, new_cell = step(projected[place], hidden, cell, weights, activations, way)
        output = new_hidden
        if lengths is not None:
            runs = (lengths > place)[:, None]
            output = torch.where(runs, new_hidden, torch.zeros_like(new_hidden))
            new_hidden, new_cell = torch.where(runs, new_hidden, hidden), torch.where(runs, new_cell, cell)
        hidden, cell = new_hidden, new_cell
        outputs.append(output)
    return torch.stack(outputs[::-1] if backward else outputs), hidden, cell


def _curve(x: Tensor, activation: Activation, clip: float) -> Tensor:
    name, alpha, beta = activation
    return _FUNCTIONS[name](x.clamp(-clip, clip) if clip else x, alpha, beta)


def _read(x: Tensor, way: Settings) -> Tensor:
    """Return what a weight is multiplied by: the numbers, or what their codes stand for."""
    return decoded(*measured(x)) if way.measured else x


def _lstm_step(
    x: Tensor, hidden: Tensor, cell: Tensor, weights: Weights, activations: Sequence[Activation], way: Settings
) -> tuple[Tensor, Tensor]:
    gates = x + F.linear(_read(hidden, way), weights.recurrent, weights.recurrent_bias)
    enter, leave, forget, new = gates.chunk(4, -1)
    peepholes = (None, None, None) if weights.peephole is None else weights.peephole.chunk(3)
    gate, of_new, of_cell = activations
    enter = _curve(enter if peepholes[0] is None else enter + peepholes[0] * cell, gate, way.clip)
    if way.coupled:
        forget = 1 - enter
    else:
        forget = _curve(forget if peepholes[2] is None else forget + peepholes[2] * cell, gate, way.clip)
    cell = forget * cell + enter * _curve(new, of_new, way.clip)
    leave = _curve(leave if peepholes[1] is None else leave + peepholes[1] * cell, gate, way.clip)
    return leave * _curve(cell, of_cell, 0.0), cell


def _gru_step(
    x: Tensor, hidden: Tensor, cell: Tensor, weights: Weights, activations: Sequence[Activation], way: Settings
) -> tuple[Tensor, Tensor]:
    update_x, reset_x, new_x = x.chunk(3, -1)
    units = hidden.shape[-1]
    split = [2 * units, units]
    both, own = torch.split(weights.recurrent, split)
    both_bias, own_bias = torch.split(weights.recurrent_bias, split)
    update, reset = (torch.cat([update_x, reset_x], -1) + F.linear(hidden, both, both_bias)).chunk(2, -1)
    update, reset = _curve(update, activations[0], way.clip), _curve(reset, activations[0], way.clip)
    if way.after:
        new = new_x + reset * F.linear(hidden, own, own_bias)
    else:
        new = new_x + F.linear(reset * hidden, own, own_bias)
    return (1 - update) * _curve(new, activations[1], way.clip) + update * hidden, cell


def _rnn_step(
    x: Tensor, hidden: Tensor, cell: Tensor, weights: Weights, activations: Sequence[Activation], way: Settings
) -> tuple[Tensor, Tensor]:
    total = x + F.linear(hidden, weights.recurrent, weights.recurrent_bias)
    return _curve(total, activations[0], way.clip), cell


@lowering("LSTM", "GRU", "RNN", since=7)
def _of_numbers(call: NodeCall) -> Result:
    return _recurrent(call, call.node.op, call.tensor(1), call.tensor(2))


@lowering("DynamicQuantizeLSTM", domain="com.microsoft", fixed=(1, 2, 8, 9, 10, 11))
def _of_codes(call: NodeCall) -> Result:
    """An LSTM whose weights are codes, which are not trained."""
    weights = []
    for place, scale, zero in ((1, 8, 9), (2, 10, 11)):
        codes = call.tensor(place)  # [directions, inputs, 4 H], the numbers [directions] or [directions, 4 H]
        numbers = [call.tensor(number).reshape(codes.shape[0], 1, -1) for number in (scale, zero)]
        weights.append(decoded(codes, *numbers).transpose(1, 2))
    return _recurrent(call, "LSTM", *weights)


def _recurrent(call: NodeCall, op: str, kernel: Tensor, recurrent_kernel: Tensor) -> Result:
    direction = str(call.attribute("direction", "forward"))
    settings = (
        op,
        direction,
        _activations(call, op, 2 if direction == "bidirectional" else 1),
        float(call.attribute("clip", 0.0)),
        bool(call.attribute("layout", 0)),
        bool(call.attribute("linear_before_reset", 0)),
        bool(call.attribute("input_forget", 0)),
        call.node.op != op,
    )
    bias, lengths, hidden, cell, peephole = optional(call, 3, 8)
    found = recurrent(call.tensor(0), kernel, recurrent_kernel, bias, lengths, hidden, cell, peephole, settings)
    return tuple(found[place] for place in range(len(call.node.outputs)))


def _activations(call: NodeCall, op: str, directions: int) -> tuple[Activation, ...]:
    """Pair the functions with their parameters, which are listed for those functions alone that have them.

    Raises:
        UsageError: when there is a function that ONNX does not know.
    """
    given = call.attribute("activations") or _DEFAULTS[op] * directions
    alphas, betas = iter(call.attribute("activation_alpha", ())), iter(call.attribute("activation_beta", ()))
    found = []
    for entry in given:
        name = (entry.decode() if isinstance(entry, bytes) else str(entry)).lower()
        if name not in _FUNCTIONS:
            raise UsageError(f"node '{call.node.label}': {call.node.op} with the activation {name} cannot be trained")
        alpha, beta = _PARAMETERS.get(name, (0.0, 0.0))
        if name in _PARAMETERS:
            alpha = float(next(alphas, alpha))
        if name in _HAS_BETA:
            beta = float(next(betas, beta))
        found.append((name, alpha, beta))
    return tuple(found)
