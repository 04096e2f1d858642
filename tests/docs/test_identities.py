"""Both sides of each identity in docs/mathematics.md, in float64."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from tests.docs.blocks import ROOT

Array = npt.NDArray[np.float64]
Sides = Iterator[tuple[Array, Array]]
_CLOSE = 1e-10  # of the larger side
_ANCHOR = re.compile(r"^##+ .*\{ #([\w-]+) \}$", re.MULTILINE)
IDENTITIES: dict[str, Callable[[np.random.Generator], Sides]] = {}
EPS = 1e-5


def identity(anchor: str) -> Callable[[Callable[[np.random.Generator], Sides]], None]:
    """Enter a function that yields the two sides of what stands under a heading of the page."""

    def enter(sides: Callable[[np.random.Generator], Sides]) -> None:
        IDENTITIES[anchor] = sides

    return enter


def test_every_identity_of_the_page_is_checked() -> None:
    assert _ANCHOR.findall((ROOT / "docs/mathematics.md").read_text(encoding="utf-8")) == list(IDENTITIES)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("anchor", _ANCHOR.findall((ROOT / "docs/mathematics.md").read_text(encoding="utf-8")))
def test_both_sides_are_equal(anchor: str, seed: int) -> None:
    count = 0
    for left, right in IDENTITIES[anchor](np.random.default_rng(seed)):
        assert left.shape == right.shape and left.size
        assert np.abs(left - right).max() <= _CLOSE * max(1.0, np.abs(left).max())
        count += 1
    assert count


def split(random: np.random.Generator, size: int = 24) -> tuple[Array, Array]:
    """Return a random half of the channels that is kept, and the others."""
    order = random.permutation(size)
    return np.sort(order[: size // 2]), np.sort(order[size // 2 :])


def stream(random: np.random.Generator, kept: Array, removed: Array, constants: Array | float) -> Array:
    """Return rows [7, N] that vary in the kept channels, and hold constants in the others."""
    x = np.empty((7, kept.size + removed.size))
    x[:, kept], x[:, removed] = random.normal(0.5, 2, (7, kept.size)), constants
    return x


def normalized(x: Array, eps: float, axes: int | tuple[int, ...] = -1) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def convolved(x: Array, weight: Array, pad: int, stride: int = 1, dilation: int = 1) -> Array:
    """Convolve x [channels, length] by weight [outputs, channels, taps]."""
    x = np.pad(x, ((0, 0), (pad, pad)))
    taps = dilation * np.arange(weight.shape[2])
    places = range(0, x.shape[1] - taps[-1], stride)
    return np.stack([np.einsum("oct,ct->o", weight, x[:, taps + place]) for place in places], 1)


@identity("narrow")
def _narrow(random: np.random.Generator) -> Sides:
    kept, removed = split(random)
    weight, x = random.normal(size=(5, 24)), random.normal(size=(24, 7))
    weight[:, removed] = 0
    yield weight @ x, weight[:, kept] @ x[kept]


@identity("interval")
def _interval(random: np.random.Generator) -> Sides:
    """Neither end is passed by any corner of the box, and both are reached by one."""
    weight, bias = random.normal(size=(4, 6)), random.normal(size=4)
    lower = random.normal(size=6)
    upper = lower + random.random(6)
    corners = np.array(np.meshgrid(*np.stack([lower, upper], 1))).reshape(6, -1)
    values = weight @ corners + bias[:, None]
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    yield values.min(1), positive @ lower + negative @ upper + bias
    yield values.max(1), positive @ upper + negative @ lower + bias


@identity("bias")
def _bias(random: np.random.Generator) -> Sides:
    kept, removed = split(random)
    constants = random.normal(size=removed.size)
    x, weight, bias = stream(random, kept, removed, constants).T, random.normal(size=(5, 24)), random.normal(size=5)
    folded = bias + weight[:, removed] @ constants
    yield weight @ x + bias[:, None], weight[:, kept] @ x[kept] + folded[:, None]
    taps = random.normal(size=(5, 24, 3))
    added = np.einsum("oct,c->o", taps[:, removed], constants)
    yield convolved(x, taps, 0), convolved(x[kept], taps[:, kept], 0) + added[:, None]


@identity("padded")
def _padded(random: np.random.Generator) -> Sides:
    kept, removed = split(random)
    constants = random.normal(size=removed.size)
    x, weight = stream(random, kept, removed, constants).T, random.normal(size=(5, 24, 3))
    which = np.abs(constants).argmax()
    present = [*kept, removed[which]]
    narrow = weight[:, present].copy()
    narrow[:, -1] = np.einsum("oct,c->ot", weight[:, removed], constants / constants[which])
    for pad, stride, dilation in ((1, 1, 1), (2, 2, 1), (2, 1, 2), (0, 1, 1)):
        yield convolved(x, weight, pad, stride, dilation), convolved(x[present], narrow, pad, stride, dilation)


@identity("affine")
def _affine(random: np.random.Generator) -> Sides:
    kept, removed = split(random)
    constants = random.normal(size=removed.size)
    x = stream(random, kept, removed, constants)
    scale, shift, mean, variance = (
        random.normal(size=24),
        random.normal(size=24),
        random.normal(size=24),
        random.random(24),
    )
    y = scale * (x - mean) / np.sqrt(variance + EPS) + shift
    of_constants = (scale * (np.where(np.isin(range(24), removed), x[0], 0) - mean) / np.sqrt(variance + EPS) + shift)[
        removed
    ]
    yield y[:, removed], np.tile(of_constants, (7, 1))


@identity("rms")
def _rms(random: np.random.Generator) -> Sides:
    kept, removed = split(random)
    constants = random.normal(size=removed.size)
    x = stream(random, kept, removed, constants)
    size, left = 24, kept.size
    eps = (size * EPS + (constants**2).sum()) / left
    narrow = x[:, kept] / np.sqrt((x[:, kept] ** 2).mean(-1, keepdims=True) + eps)
    wide = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)
    yield wide[:, kept], np.sqrt(size / left) * narrow


def _represented(random: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Return a normalized stream [7, N], what the operator over P channels gives for them, and factor and shift."""
    kept, removed = split(random)
    constants = random.normal(size=removed.size)
    x = stream(random, kept, removed, constants)
    present, left = np.concatenate([kept, removed[:2]]), constants[2:]
    part = present.size / 24
    eps = (24 * EPS + left.size * left.var()) / present.size
    mean, deviation = x[:, present].mean(-1, keepdims=True), np.sqrt(x[:, present].var(-1, keepdims=True) + eps)
    z, middle = (x - mean) / deviation, (left.mean() - mean) / deviation
    return normalized(x, EPS), z, 1 / np.sqrt(part * (1 + (1 - part) * middle**2)), (1 - part) * middle


@identity("layer-norm")
def _layer_norm(random: np.random.Generator) -> Sides:
    wide, z, factor, shift = _represented(random)
    yield wide, factor * (z - shift)


@identity("reconstruction")
def _reconstruction(random: np.random.Generator) -> Sides:
    """A linear reader of what the operator makes of two representatives has all that it had."""
    random_state = random.bit_generator.state
    _, z, _, _ = _represented(random)
    random.bit_generator.state = random_state
    _, removed = split(random)
    constants = random.normal(size=removed.size)
    first, second = constants[:2]
    share = (constants - first) / (second - first)
    yield z[:, removed], z[:, removed[:1]] + share * (z[:, removed[1:2]] - z[:, removed[:1]])


@identity("group-norm")
def _group_norm(random: np.random.Generator) -> Sides:
    kept, removed = split(random, 8)
    constants = random.normal(size=(removed.size, 1))
    x = random.normal(0.5, 2, (8, 11))
    x[removed] = constants
    part, middle, spread = kept.size / 8, constants.mean(), constants.var()
    mean = part * x[kept].mean() + (1 - part) * middle
    variance = part * ((x[kept] - mean) ** 2).mean() + (1 - part) * (spread + (middle - mean) ** 2)
    yield normalized(x, EPS, (0, 1))[kept], (x[kept] - mean) / np.sqrt(variance + EPS)


@identity("centred")
def _centred(random: np.random.Generator) -> Sides:
    kept, removed = split(random)
    x = stream(random, kept, removed, 0.0)
    mean = x.mean(-1)
    extra = -np.sqrt(removed.size) * mean
    yield ((x[:, kept] - mean[:, None]) ** 2).sum(-1) + extra**2, x.shape[1] * x.var(-1)


@identity("scores")
def _scores(random: np.random.Generator) -> Sides:
    q, k, factor = random.normal(size=(5, 24)), random.normal(size=(6, 24)), 24**-0.5
    kept, removed = split(random)
    q[:, removed[::2]] = 0
    k[:, removed[1::2]] = 0
    yield factor * q @ k.T, factor * q[:, kept] @ k[:, kept].T
    order = random.permutation(kept)
    yield factor * q @ k.T, factor * q[:, order] @ k[:, order].T


@identity("key")
def _key(random: np.random.Generator) -> Sides:
    q, k, bias = random.normal(size=(5, 8)), random.normal(size=(6, 8)), random.normal(size=8)
    mask = np.where(random.random((5, 6)) < 0.3, -np.inf, 0.0)
    mask[:, 0] = 0
    yield softmax(q @ (k + bias).T + mask), softmax(q @ k.T + mask)
    k[:, 3] = 0.7
    others = np.delete(np.arange(8), 3)
    yield softmax(q @ k.T + mask), softmax(q[:, others] @ k[:, others].T + mask)


@identity("value")
def _value(random: np.random.Generator) -> Sides:
    p, v, out = softmax(random.normal(size=(5, 6))), random.normal(size=(6, 8)), random.normal(size=(8, 4))
    v[:, 2] = -1.3
    others = np.delete(np.arange(8), 2)
    yield (p @ v) @ out, (p @ v[:, others]) @ out[others] - 1.3 * out[2]


@identity("head")
def _head(random: np.random.Generator) -> Sides:
    """Two pairs of key and value, two query heads each; nobody reads what the second pair's heads give."""
    q, k, v = random.normal(size=(4, 5, 8)), random.normal(size=(2, 6, 8)), random.normal(size=(2, 6, 8))
    out = random.normal(size=(4, 8, 3))
    out[2:] = 0

    def attended(heads: range) -> Array:
        parts = [softmax(q[head] @ k[head // 2].T) @ v[head // 2] @ out[head] for head in heads]
        return np.asarray(np.sum(parts, axis=0))

    yield attended(range(4)), attended(range(2))


@identity("rotary")
def _rotary(random: np.random.Generator) -> Sides:
    q, k, angles = random.normal(size=(5, 8)), random.normal(size=(5, 8)), random.random((5, 4))
    q[:, [1, 5]] = 0
    k[:, [2, 6]] = 0

    def rotated(x: Array, pairs: list[int]) -> Array:
        first, second = x[:, pairs], x[:, [pair + 4 for pair in pairs]]
        cos, sin = np.cos(angles[:, pairs]), np.sin(angles[:, pairs])
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], 1)

    everything, left = [0, 1, 2, 3], [0, 3]
    yield rotated(q, everything) @ rotated(k, everything).T, rotated(q, left) @ rotated(k, left).T


@identity("recurrent")
def _recurrent(random: np.random.Generator) -> Sides:
    """An LSTM whose units 4 to 7 have a candidate of 0; their recurrent weights into others do not matter then."""
    size, left = 8, 4
    inputs, weight, recurrent = (
        random.normal(size=(9, 3)),
        random.normal(size=(4, size, 3)),
        random.normal(size=(4, size, size)),
    )
    bias = random.normal(size=(4, size))
    weight[3, left:], recurrent[3, left:], bias[3, left:] = 0, 0, 0

    def states(units: slice) -> Array:
        w, r, b = weight[:, units], recurrent[:, units, units], bias[:, units]
        hidden, cell, found = np.zeros(w.shape[1]), np.zeros(w.shape[1]), []
        for x in inputs:
            gates = w @ x + r @ hidden + b
            i, o, f = 1 / (1 + np.exp(-gates[:3]))
            cell = f * cell + i * np.tanh(gates[3])
            hidden = o * np.tanh(cell)
            found.append(hidden)
        return np.array(found)

    wide = states(slice(None))
    yield wide[:, left:], np.zeros((9, size - left))
    yield wide[:, :left], states(slice(left))


@identity("codes")
def _codes(random: np.random.Generator) -> Sides:
    """In integers: equal, not close."""
    kept, removed = split(random)
    codes, zero = random.integers(0, 256, (24, 7)), 131
    codes[removed] = random.integers(0, 256, (removed.size, 1))
    weight, bias = random.integers(-127, 128, (5, 24)), random.integers(-1000, 1000, (5, 1))
    wide = weight @ (codes - zero) + bias
    folded = bias + weight[:, removed] @ (codes[removed, :1] - zero)
    narrow = weight[:, kept] @ (codes[kept] - zero) + folded
    assert (wide == narrow).all()
    yield wide.astype(float), narrow.astype(float)


def _moments(random: np.random.Generator) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Return samples [300, 12], their mean and second moments, weights [4, 12], and which channels stay and leave."""
    x = random.normal(size=(300, 12)) @ random.normal(size=(12, 12)) + random.normal(size=12)
    centred = x - x.mean(0)
    kept, removed = split(random, 12)
    return x, x.mean(0), centred.T @ centred / len(x), random.normal(size=(4, 12)), kept, removed


@identity("repair")
def _repair(random: np.random.Generator) -> Sides:
    """What least squares finds for the outputs, with a bias."""
    x, mean, moments, weight, kept, removed = _moments(random)
    repaired = weight[:, kept] + weight[:, removed] @ moments[np.ix_(removed, kept)] @ np.linalg.inv(
        moments[np.ix_(kept, kept)]
    )
    bias = weight @ mean - repaired @ mean[kept]
    found, *_ = np.linalg.lstsq(np.c_[x[:, kept], np.ones(len(x))], x @ weight.T, rcond=None)
    yield found.T, np.c_[repaired, bias]


@identity("cost")
def _cost(random: np.random.Generator) -> Sides:
    x, _, moments, weight, kept, removed = _moments(random)
    design = np.c_[x[:, kept], np.ones(len(x))]
    found, *_ = np.linalg.lstsq(design, x @ weight.T, rcond=None)
    missed = ((design @ found - x @ weight.T) ** 2).sum() / len(x)
    rest = np.linalg.inv(np.linalg.inv(moments)[np.ix_(removed, removed)])
    yield np.array([missed]), np.array([np.trace(weight[:, removed] @ rest @ weight[:, removed].T)])


@identity("downdate")
def _downdate(random: np.random.Generator) -> Sides:
    _, _, moments, _, kept, removed = _moments(random)
    inverse = np.linalg.inv(moments)
    across = inverse[np.ix_(kept, removed)]
    narrow = inverse[np.ix_(kept, kept)] - across @ np.linalg.inv(inverse[np.ix_(removed, removed)]) @ across.T
    yield np.linalg.inv(moments[np.ix_(kept, kept)]), narrow
