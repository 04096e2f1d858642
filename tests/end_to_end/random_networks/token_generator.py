"""Networks of random layers on streams of tokens: `random_token_network` draws one from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tests.end_to_end.random_networks import token_layers
from tests.end_to_end.random_networks.network import BATCHES, Array, Tensor
from tests.end_to_end.random_networks.normalized import mean, norm
from tests.end_to_end.random_networks.stream import TokenNetwork
from tests.support.planted.opsets import LATEST

Layer = Callable[[TokenNetwork, Tensor], Tensor | None]

LAYERS: dict[Layer, float] = {
    token_layers.class_token: 0.5, token_layers.positions: 0.6, token_layers.fewer_tokens: 0.4,
    token_layers.merged_tokens: 0.6, token_layers.projected: 0.7, token_layers.normed: 0.6,
    token_layers.pointwise: 0.6, token_layers.taken_channels: 0.3, token_layers.gate_of_all: 0.3,
    token_layers.over_channels: 0.1,
}  # fmt: skip
"""How often each kind of layer is drawn beside residual branches."""

RESIDUAL = 0.65  # of all layers
OPSETS = (11, 13, 17, 18, 20, 23, LATEST)
HALF = 0.06  # of all networks are in float16
TOKENS = ((16, 16), (4, 4), (5, 9), (4, 8))
"""Numbers of tokens at both sizes of the input."""
HANDED_OUT = ("MatMul", "Add", "Transpose", "Softmax", "LayerNormalization", "RMSNormalization", "Attention")
"""Operators behind which any tensor may be an output of the network too."""
WORDS = 11  # rows of a table of embeddings


@dataclass(frozen=True)
class RandomTokenNetwork:
    """A network, its type, and its inputs at two sizes."""

    model: onnx.ModelProto
    dtype: type[np.floating[Any]]
    feeds: tuple[dict[str, Array], dict[str, Array]]


def random_token_network(seed: int) -> RandomTokenNetwork:
    """Draw a network of one to five layers on a stream."""
    random = np.random.default_rng((seed, 1))
    dtype = np.float16 if random.random() < HALF else np.float32
    net = TokenNetwork(random, int(random.choice(OPSETS)), dtype)
    given, x, table = _input(net)
    more = [*_memory(net, x), *_mask(net, x), *_past(net, x)]
    history = [x]
    for _ in range(net.whole(1, 5)):
        history.append(_joined(net, _layer(net, history[-1], more), history))
    outputs = [_head(net, history[-1], table)]
    if net.chance(0.25):
        outputs.append(
            net.pick(*history, *(tensor for op, tensor in net.made if op in HANDED_OUT and not tensor.values))
        )
    model = net.model(*{tensor.name: tensor for tensor in outputs}.values())
    return RandomTokenNetwork(model, dtype, (_feeds(net, [given, *more], 0), _feeds(net, [given, *more], 1)))


def _feeds(net: TokenNetwork, inputs: list[Tensor], case: int) -> dict[str, Array]:
    def drawn(x: Tensor) -> Array:
        if x.dtype is np.int64:
            return net.random.integers(0, WORDS, x.shapes[case])
        if x.dtype is np.bool_:
            return np.asarray(net.random.random(x.shapes[case]) < 0.7)
        return net.normal(*x.shapes[case]).astype(net.dtype)

    return {x.name: drawn(x) for x in inputs}


def _input(net: TokenNetwork) -> tuple[Tensor, Tensor, Tensor | None]:
    """Add an input: words, patches of an image, or features; return it, the stream, and the table of the words."""
    tokens = net.pick(*TOKENS)
    batch = ("N", BATCHES) if net.chance(0.6) else (2, (2, 2))
    length: int | str = tokens[0] if tokens[0] == tokens[1] else "T"
    kind, width = net.pick("words", "patches", "features", "features"), net.whole(4, 12) if net.chance(0.97) else 128
    sizes = [(batch[1][case], tokens[case]) for case in (0, 1)]
    if kind == "words":
        given = net.input([batch[0], length], (sizes[0], sizes[1]), dtype=np.int64)
        values = net.normal(WORDS, width)
        values[:, net.empty(width)] = net.pick(0.0, 0.0, 0.5)
        table = net.constant(values)
        x = net.add("Gather", table, given, axis=0)
        return given, x, table
    if kind == "patches" and tokens in ((16, 16), (4, 4)):
        side = 2 * int(np.sqrt(tokens[0]))
        given = net.input([batch[0], 3, side, side], ((batch[1][0], 3, side, side), (batch[1][1], 3, side, side)))
        weight = net.normal(width, 3, 2, 2) / 3
        weight[net.empty(width)] = 0
        bias = np.where(net.empty(width), net.pick(0.0, 0.4, net.normal(width)), net.normal(width))
        y = net.add("Conv", given, net.constant(weight), net.constant(bias), strides=[2, 2])
        y = net.add("Reshape", y, net.integers(0, width, -1))
        return given, net.add("Transpose", y, perm=[0, 2, 1]), None
    features = net.whole(2, 6)
    given = net.input([batch[0], length, features], ((*sizes[0], features), (*sizes[1], features)))
    return given, net.written(given, width, first=True), None


def _memory(net: TokenNetwork, x: Tensor) -> list[Tensor]:
    """Add a second input to attend to, sometimes."""
    if net.chance(0.8):
        return []
    features, tokens = net.whole(2, 5), 6
    sizes = [(shape[0], tokens, features) for shape in x.shapes]
    return [net.input([_batch(x), tokens, features], (sizes[0], sizes[1]), name="memory")]


def _mask(net: TokenNetwork, x: Tensor) -> list[Tensor]:
    """Add an input that says which tokens there are, sometimes."""
    if net.chance(0.8):
        return []
    sizes = [shape[:2] for shape in x.shapes]
    tokens = sizes[0][1] if sizes[0][1] == sizes[1][1] else "T"
    return [net.input([_batch(x), tokens], (sizes[0], sizes[1]), name="mask", dtype=np.bool_)]


def _past(net: TokenNetwork, x: Tensor) -> list[Tensor]:
    """Add an input with keys and values of earlier tokens, sometimes."""
    if net.chance(0.9):
        return []
    dims = net.whole(2, 4)
    sizes = [(shape[0], 1, 3, dims) for shape in x.shapes]
    return [net.input([_batch(x), 1, 3, dims], (sizes[0], sizes[1]), name="past")]


def _batch(x: Tensor) -> int | str:
    first, second = (shape[0] for shape in x.shapes)
    return first if first == second else "N"


def _joined(net: TokenNetwork, x: Tensor, history: list[Tensor]) -> Tensor:
    """Join a stream with an earlier one, sometimes."""
    fitting = [y for y in history if x.rank == y.rank and [s[:-1] for s in x.shapes] == [s[:-1] for s in y.shapes]]
    equal = [y for y in fitting if y.width == x.width]
    if equal and net.chance(0.15):
        return net.add(net.pick("Add", "Add", "Mul", "Sub", "Max"), x, net.pick(*equal))
    if x.rank == 3 and net.chance(0.08):  # the mean of all tokens, or the first of them, meets each
        one = mean(net, x, 1) if net.chance(0.5) else net.add("Gather", x, net.integers(0), axis=1)
        return net.add(net.pick("Add", "Mul", "Sub"), x, net.written(one, x.width))
    if fitting and x.width < 16 and net.chance(0.1):
        return net.add("Concat", *net.pick((x, y := net.pick(*fitting)), (y, x)), axis=2)
    return x


def _layer(net: TokenNetwork, x: Tensor, more: list[Tensor]) -> Tensor:
    """Draw layers until one applies."""
    layers = list(LAYERS)
    shares = np.array(list(LAYERS.values()))
    while True:
        if net.chance(RESIDUAL):
            made = token_layers.residual(net, x, more)
        else:
            layer = layers[int(net.random.choice(len(layers), p=shares / shares.sum()))]
            made = layer(net, x)
        if made is not None:
            return made


def _head(net: TokenNetwork, x: Tensor, table: Tensor | None) -> Tensor:
    """Read the stream: by the table of the words, the first token, the mean, or all tokens; or hand it out as it is."""
    kind = net.pick("tokens", "tokens", "first", "mean", "words", "stream", "all")
    y = norm(net, x) if net.chance(0.7) else x
    if kind == "words" and table is not None and table.width == y.width:
        return net.add("MatMul", y, net.add("Transpose", table, perm=[1, 0]))
    if kind == "first":
        return net.linear(net.add("Gather", y, net.constant(0, np.int64), axis=1), 3)
    if kind == "mean":
        return net.linear(mean(net, y, 1, keepdims=0), 3)
    if kind == "all" and y.static:
        return net.linear(net.add("Flatten", y), 3)
    return y if kind == "stream" else net.linear(y, 3)
