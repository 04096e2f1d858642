"""Attention as exporters spread it over nodes, in a wide and a small network at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.support.builders import CONST, DEAD, KEPT, LIVE, ZERO, Both, Tensor, Units
from tests.support.planted.checks import assert_recovers
from tests.support.planted.layers import Twin

PAIRS = ((ZERO, DEAD), (DEAD, ZERO), (DEAD, CONST), (ZERO, CONST))
"""What a dim of a query and its key may be when it can leave; a key that is the same everywhere cancels in softmax."""


@dataclass(frozen=True)
class Heads:
    """What each dim of each head is, [heads * dims], for queries, keys and values."""

    count: int
    q: Units
    k: Units
    v: Units

    def sizes(self, units: Units) -> tuple[Both, Both]:
        """Return how many heads and how many dims each has, in both networks."""
        kept = np.isin(units, KEPT).reshape(self.count, -1)
        heads = kept[kept.any(axis=1)]
        return Both(self.count, len(heads)), Both(kept.shape[1], int(heads[0].sum()) if len(heads) else 0)


def heads(twin: Twin, count: int, *, live: int = 3, gone: int = 2, dead: int = 0, alike: bool = False) -> Heads:
    """Draw heads which keep ``live`` dims each, at places of their own or ``alike``; ``dead`` of them leave."""
    order = [np.sort(twin.random.permutation(live + gone)[:live]) for _ in range(2 * count)]
    lost = set(twin.random.permutation(count)[:dead])
    q, k, v = ([] for _ in range(3))
    for head in range(count):
        pairs = [PAIRS[twin.random.integers(len(PAIRS))] for _ in range(live + gone)]
        values = list(twin.random.choice([DEAD, ZERO, CONST], live + gone))
        for place in () if head in lost else order[0 if alike else head]:
            pairs[place] = (LIVE, LIVE)
        for place in () if head in lost else order[count + (0 if alike else head)]:
            values[place] = LIVE
        if head in lost:
            pairs, values = [(DEAD, DEAD)] * (live + gone), [DEAD] * (live + gone)
        q += [pair[0] for pair in pairs]
        k += [pair[1] for pair in pairs]
        v += values
    return Heads(count, np.array(q), np.array(k), np.array(v))


def split(twin: Twin, x: Any, sizes: tuple[Both, Both], order: Sequence[int] = (0, 2, 1, 3)) -> str:
    """Divide [batch, time, channels] into [batch, heads, time, dims], or in another order."""
    y = twin.node("Reshape", [x, twin.integers(0, -1, *sizes)])
    return twin.node("Transpose", y, perm=list(order))[0]


def merge(twin: Twin, y: str, x: Tensor, units: Units, queries: int = 1, dims: int = 5) -> Tensor:
    """Lay the heads side by side again; ``x`` are the projected values, whose constants have passed through.

    ``units`` says what becomes of each dim, ``queries`` how many heads share each head of the values, and its ``dims``.
    """
    width = Both(len(units), int(np.isin(units, KEPT).sum()))
    y = twin.node("Transpose", [y], perm=[0, 2, 1, 3])[0]
    name = twin.node("Reshape", [y, twin.integers(0, -1, width)])[0]
    fill = x.fill if queries == 1 else np.repeat(x.fill.reshape(-1, dims), queries, axis=0).ravel()
    fill = np.where(units == DEAD, np.nan, fill)
    return replace(x, name=name, shape=(*x.shape[:2], len(units)), kinds=units, fill=fill)


Scores = Callable[[Twin, str], str]


def probabilities(twin: Twin, q: str, k: str, dims: int, change: Scores | None = None) -> str:
    """Return softmax(q k / sqrt(dims)); ``k`` is transposed already, ``dims`` are the wide network's in both."""
    scores = twin.node("MatMul", [q, k])[0]
    scores = twin.node("Div", [scores, twin.parameter(dims**0.5)])[0]
    scores = change(twin, scores) if change else scores
    return twin.node("Softmax", [scores], axis=-1)[0]


def attend(
    twin: Twin, x: Tensor, planted: Heads, *, memory: Tensor | None = None, change: Scores | None = None
) -> Tensor:
    """Return what the heads of a self-attention, or of a cross-attention to ``memory``, give side by side."""
    memory = memory or x
    q, k, v = (twin.matmul(y, units) for y, units in ((x, planted.q), (memory, planted.k), (memory, planted.v)))
    q_name, k_name = split(twin, q, planted.sizes(planted.q)), split(twin, k, planted.sizes(planted.k), (0, 2, 3, 1))
    p = probabilities(twin, q_name, k_name, len(planted.q) // planted.count, change)
    y = twin.node("MatMul", [p, split(twin, v, planted.sizes(planted.v))])[0]
    return merge(twin, y, v, planted.v)


def stream(twin: Twin, name: str = "T") -> Tensor:
    """Return tokens with dead and constant channels."""
    return twin.op("Tanh", twin.matmul(twin.input("N", name, 6, axis=2), twin.units(live=5, dead=2, const=2)))


def finish(twin: Twin, x: Tensor, **options: object) -> None:
    """Add a last layer, and assert that the wide network comes back at the size of the small one."""
    assert_recovers(twin.pair(twin.matmul(x, twin.units(live=4))), **options)  # type: ignore[arg-type]
