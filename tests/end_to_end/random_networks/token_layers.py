"""Layers on streams of tokens; a layer returns None where it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.end_to_end.random_networks import moving, pointwise, weighted
from tests.end_to_end.random_networks.attending import LONGEST, attention
from tests.end_to_end.random_networks.mixing import (
    batch_and_heads_in_one,
    by_einsum,
    by_experts,
    of_channels,
    with_past,
    without_softmax,
)
from tests.end_to_end.random_networks.network import Network, Tensor
from tests.end_to_end.random_networks.normalized import (
    activation,
    in_float32,
    layer_norm,
    mean,
    norm,
    softmax_of_tokens,
    sum_and_norm,
)
from tests.end_to_end.random_networks.recurrent import recurrent
from tests.end_to_end.random_networks.stream import TokenNetwork

IMAGE_LAYERS: tuple[Callable[[Network, Tensor], Tensor | None], ...] = (
    weighted.conv, weighted.conv, weighted.depthwise_conv, weighted.grouped_conv, weighted.squeeze_and_excite,
    weighted.matmul, weighted.flattened_matmul, pointwise.batch_norm, pointwise.activation, pointwise.arithmetic,
    pointwise.pool, pointwise.layer_norm, pointwise.instance_norm, moving.split, moving.part, moving.shuffle,
    moving.pad, moving.gather, moving.depth_to_space, moving.reduced_channels, moving.own_statistics,
)  # fmt: skip
END = int(np.iinfo(np.int64).max)

# -- residual branches -------------------------------------------------------------------------------------------------


def attended(net: TokenNetwork, x: Tensor, more: Sequence[Tensor] = ()) -> Tensor | None:
    """Attend to the tokens themselves, perhaps masked, or to a memory, and write the stream."""
    if max(shape[1] for shape in x.shapes) > LONGEST:
        return None
    tokens = [shape[:2] for shape in x.shapes]
    mask = next((y for y in more if y.dtype is np.bool_ and list(y.shapes) == tokens), None)
    memory = next((y for y in more if y.name == "memory"), None)
    past = next((y for y in more if y.name == "past"), None)
    if past is not None and [shape[0] for shape in x.shapes] == [shape[0] for shape in past.shapes]:
        return net.written(with_past(net, x, past), x.width)
    return net.written(attention(net, x, memory if net.chance(0.5) else None, mask), x.width)


def attended_otherwise(net: TokenNetwork, x: Tensor) -> Tensor:
    """Attend in a way that is not softmax over keys, and write the stream."""
    mixing = net.pick(
        without_softmax, of_channels, by_einsum, by_experts, batch_and_heads_in_one, batch_and_heads_in_one
    )
    return net.written(mixing(net, x), x.width)


def perceptron(net: TokenNetwork, x: Tensor) -> Tensor:
    """Add two layers and an activation between them."""
    return net.written(activation(net, net.linear(x, net.whole(3, 10))), x.width)


def gated(net: TokenNetwork, x: Tensor) -> Tensor:
    """Multiply one half with an activation of the other: two layers, or one that is cut."""
    hidden = net.whole(2, 6)
    if net.chance(0.5):
        a, b = net.linear(x, hidden), net.linear(x, hidden)
    else:
        both = net.linear(x, 2 * hidden)
        if net.opset >= 13:
            a, b = net.split("Split", both, net.integers(hidden, hidden), outputs=2, axis=-1)
        else:
            a, b = net.split("Split", both, outputs=2, axis=2, split=[hidden, hidden])
    return net.written(net.add("Mul", activation(net, a), b), x.width)


def convolved(net: TokenNetwork, x: Tensor) -> Tensor:
    """Convolve along the tokens, each channel by itself, and mix the channels."""
    y = net.add("Transpose", x, perm=[0, 2, 1])
    weight = net.constant(net.odd(net.sparse(x.width, 1, 3)))
    more = [net.constant(np.where(net.empty(x.width), net.pick(0.0, 0.5), net.normal(x.width)))]
    y = net.add("Conv", y, weight, *more[: net.pick(0, 1, 1)], group=x.width, pads=[1, 1])
    y = net.add("Transpose", y, perm=[0, 2, 1])
    return net.written(layer_norm(net, y) if net.chance(0.5) else y, x.width)


def mixed_tokens(net: TokenNetwork, x: Tensor) -> Tensor | None:
    """Mix the tokens of each channel, as an MLP mixer does."""
    if not x.static or x.rank != 3:
        return None
    tokens, hidden = x.shapes[0][1], net.whole(2, 6)
    y = net.add("Transpose", x, perm=[0, 2, 1])
    y = net.product(activation(net, net.linear(y, hidden)), net.matrix(hidden, tokens), net.sparse(tokens))
    return net.add("Transpose", y, perm=[0, 2, 1])


def windowed(net: TokenNetwork, x: Tensor) -> Tensor | None:
    """Attend within windows of 2 x 2 tokens, perhaps rolled."""
    tokens = x.shapes[0][1]
    side = int(np.sqrt(tokens))
    if not x.static or side * side != tokens or side % 2:
        return None
    half = side // 2
    y = net.add("Reshape", x, net.sizes(net.extent(x, 0) if net.chance(0.3) else 0, side, side, x.width))
    rolled = net.chance(0.4)
    if rolled:
        y = _rolled(net, y, 1)
    y = net.add("Transpose", net.add("Reshape", y, net.integers(0, half, 2, half, 2, x.width)), perm=[0, 1, 3, 2, 4, 5])
    y = net.add("Reshape", y, net.integers(-1, 4, x.width))
    y = net.written(attention(net, y), x.width)
    y = net.add("Reshape", y, net.integers(-1, half, half, 2, 2, x.width))
    y = net.add("Reshape", net.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), net.integers(-1, side, side, x.width))
    if rolled:
        y = _rolled(net, y, side - 1)
    return net.add("Reshape", y, net.integers(-1, tokens, x.width))


def _rolled(net: TokenNetwork, x: Tensor, by: int) -> Tensor:
    """Roll the rows of a map."""
    end = net.add("Slice", x, net.integers(by), net.integers(END), net.integers(1))
    return net.add("Concat", end, net.add("Slice", x, net.integers(0), net.integers(by), net.integers(1)), axis=1)


def imaged(net: TokenNetwork, x: Tensor) -> Tensor | None:
    """Make a map of the tokens, run layers of images on it, and write the stream."""
    tokens, side = x.shapes[0][1], int(np.sqrt(x.shapes[0][1]))
    if not x.static or side * side != tokens or x.rank != 3:
        return None
    y = net.add("Reshape", net.add("Transpose", x, perm=[0, 2, 1]), net.integers(0, x.width, side, side))
    before = y.shapes
    for _ in range(net.whole(1, 3)):
        layer = net.pick(*IMAGE_LAYERS)
        made = layer(net, y)
        y = y if made is None or made.least < 1 or made.elements > 1000 else made
    if y.shapes[0][2:] != before[0][2:]:
        y = net.add("GlobalAveragePool", y)
    y = net.add("Reshape", y, net.integers(0, y.channels, -1))
    return net.written(net.add("Transpose", y, perm=[0, 2, 1]), x.width)


def pooled_tokens(net: TokenNetwork, x: Tensor) -> Tensor:
    """Add to all tokens what a weighted mean of them makes."""
    return net.written(softmax_of_tokens(net, x), x.width)


def residual(net: TokenNetwork, x: Tensor, more: Sequence[Tensor] = ()) -> Tensor | None:
    """Add a branch to the stream, with a norm before it, behind the sum, both or none."""
    where = net.pick("pre", "pre", "post", "both", "none")
    y = norm(net, x) if where in ("pre", "both") else x
    branch = net.pick(
        attended, attended, attended, attended_otherwise, perceptron, perceptron, gated, convolved, mixed_tokens,
        windowed, recurrent, imaged, pooled_tokens,
    )  # fmt: skip
    added = branch(net, y, more) if branch is attended else branch(net, y)
    if added is None:
        return None
    if net.chance(0.25):
        added = net.add("Mul", *net.pick((added, scale := net.parameters(x.width)), (scale, added)))
    if where == "post" and x.shapes == added.shapes and net.dtype is np.float32 and net.chance(0.15):
        return sum_and_norm(net, x, added)
    total = net.add("Add", *net.pick((x, added), (added, x)))
    return norm(net, total, post=True) if where in ("post", "both") else total


# -- what moves tokens or channels -------------------------------------------------------------------------------------


def class_token(net: TokenNetwork, x: Tensor) -> Tensor:
    """Put a learnt token in front of the others."""
    stored = net.constant(np.where(net.empty(x.width), net.pick(0.0, 0.0, 0.3), net.normal(x.width))[None, None])
    token = net.add("Expand", stored, net.sizes(net.extent(x, 0), 1, x.width))
    return net.add("Concat", *net.pick((token, x), (token, x), (x, token)), axis=1)


def positions(net: TokenNetwork, x: Tensor) -> Tensor | None:
    """Add a table of positions: a constant, sliced, or gathered by a range."""
    length = max(shape[1] for shape in x.shapes)
    if length > LONGEST or x.rank != 3:
        return None
    table = net.normal(LONGEST, x.width)
    table[:, net.empty(x.width)] *= net.pick(0, 0, 1)
    if x.static and net.chance(0.5):
        return net.add("Add", x, net.constant(table[:length][None]))
    if net.chance(0.5):
        rows = net.add("Slice", net.constant(table), net.integers(0), net.extent(x, 1), net.integers(0))
    else:
        known = [np.arange(shape[1]) for shape in x.shapes]
        stop = net.add("Squeeze", net.extent(x, 1), values=tuple(np.array(shape[1]) for shape in x.shapes))
        limits = net.constant(0, np.int64), stop, net.constant(1, np.int64)
        places = net.add("Range", *limits, values=(known[0], known[1]))
        rows = net.add("Gather", net.constant(table), places, axis=0)
    return net.add("Add", *net.pick((x, rows), (rows, x)))


def fewer_tokens(net: TokenNetwork, x: Tensor) -> Tensor | None:
    """Drop the first or last token, or every other one."""
    if min(shape[1] for shape in x.shapes) < 4:
        return None
    first, last, step = net.pick((1, END, 1), (0, -1, 1), (0, END, 2))
    return net.add("Slice", x, net.integers(first), net.integers(last), net.integers(1), net.integers(step))


def merged_tokens(net: TokenNetwork, x: Tensor) -> Tensor | None:
    """Put the channels of two neighbours together, normalize them, and reduce them: patch merging."""
    if any(shape[1] % 2 for shape in x.shapes):
        return None
    if net.chance(0.5):
        y = net.add("Reshape", x, net.sizes(0, -1, 2 * x.width))
    else:
        even, odd = (
            net.add("Slice", x, net.integers(first), net.integers(END), net.integers(1), net.integers(2))
            for first in (0, 1)
        )
        y = net.add("Concat", even, odd, axis=2)
    return net.linear(layer_norm(net, y) if net.chance(0.7) else y, net.whole(4, 10))


def projected(net: TokenNetwork, x: Tensor) -> Tensor:
    """Start another stream."""
    return net.written(x, net.whole(4, 12), first=True)


def normed(net: TokenNetwork, x: Tensor) -> Tensor:
    """Normalize."""
    return norm(net, x)


def pointwise(net: TokenNetwork, x: Tensor) -> Tensor:
    """Shift, scale or activate each channel, or come back unchanged."""
    kind = net.pick("shift", "scale", "activation", "clip", "number", "cast")
    if kind == "cast":
        return in_float32(net, x)
    if kind == "activation":
        return activation(net, x)
    if kind == "clip":
        return net.add("Clip", x, net.constant(-0.5), net.constant(net.pick(0.5, 6.0)))
    if kind == "number":
        return net.add(net.pick("Add", "Mul", "Sub"), x, net.constant(net.pick(0.5, 2.0, -1.0)))
    return net.add("Add" if kind == "shift" else "Mul", x, net.parameters(x.width))


def taken_channels(net: TokenNetwork, x: Tensor) -> Tensor:
    """Take channels in any order."""
    taken = net.random.integers(0, x.width, net.whole(3, x.width + 1))
    return net.add("Gather", x, net.integers(*map(int, taken)), axis=net.pick(2, -1))


def gate_of_all(net: TokenNetwork, x: Tensor) -> Tensor:
    """Multiply each channel with a gate computed from the mean token."""
    middle = net.add("Relu", net.linear(mean(net, x, 1), net.whole(2, 5)))
    return net.add("Mul", x, net.add("Sigmoid", net.linear(middle, x.width)))


def over_channels(net: TokenNetwork, x: Tensor) -> Tensor:
    """Set the channels against each other."""
    return net.add("Softmax", x, axis=2)
