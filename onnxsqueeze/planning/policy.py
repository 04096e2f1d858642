"""The cost policy: where keeping a few more original channels makes the result faster. It never invents any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from functools import partial

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.constraint import Classes, Constraint
from onnxsqueeze.coupling.constraints import RoundUp
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.planning.narrowing import Candidate, NarrowingPolicy
from onnxsqueeze.rules.plan import PRODUCTS_PER_PIXEL, PRODUCTS_PER_POINT, Narrowing

_PRODUCTS_PER_ELEMENT = 512  # that take as long as gathering an element along the last axis, and what follows from it
_SMALLEST_BLOCK = 16  # channels; below one block onnxruntime copies a tensor before it reads it


def rounding(analysis: Analysis, round_to: str | int) -> Sequence[Constraint]:
    """Return the constraints that raise channel counts.

    Args:
        round_to: a multiple for all layers, or "auto": what onnxruntime's blocked 2-D convolutions like.

    Raises:
        UsageError: for anything but "auto" or a positive integer.
    """
    if round_to == "auto":
        return _automatic(analysis)
    multiple = _multiple(round_to)
    return [] if multiple == 1 else _multiples(analysis, multiple)


def _multiple(round_to: str | int) -> int:
    try:
        multiple = int(round_to)
    except ValueError:
        multiple = 0
    if multiple < 1:
        raise UsageError(f"--round-to {round_to}: give `auto` or a positive number of channels")
    return multiple


def narrowing(round_to: str | int) -> NarrowingPolicy:
    """Return what decides which layers compute with a part of their weights.

    Args:
        round_to: a multiple for the channels that they read and compute, or "auto": what makes onnxruntime faster.

    Raises:
        UsageError: for anything but "auto" or a positive integer.
    """
    if round_to == "auto":
        return partial(_narrowed, _blocks_of_images, _gathers_cheaply)
    return partial(_narrowed, partial(_to_multiple, _multiple(round_to)), _saves_elements)


class _Along(Enum):
    """What lies behind the channels that are moved."""

    NOTHING = auto()
    PIXELS = auto()
    POINTS = auto()


_PRODUCTS = {
    _Along.NOTHING: _PRODUCTS_PER_ELEMENT,
    _Along.PIXELS: PRODUCTS_PER_PIXEL,
    _Along.POINTS: PRODUCTS_PER_POINT,
}


def _to_multiple(multiple: int, along: _Along, kept: int, original: int) -> int:
    return next_multiple(multiple, kept, original)


def _blocks_of_images(along: _Along, kept: int, original: int) -> int:
    return blocked(_SMALLEST_BLOCK, kept, original) if along is _Along.PIXELS else kept


def _saves_elements(along: _Along, saved: int, moved: int) -> bool:
    """Whether fewer weight elements are stored than new indices."""
    return saved > moved


def _gathers_cheaply(along: _Along, saved: int, moved: int) -> bool:
    """Whether the products that are saved take longer than moving the channels.

    Along the last axis, one element is moved at a time (tools/measure/measure_narrowed_layers.py).
    """
    return saved >= moved * _PRODUCTS[along]


def _narrowed(
    count: Callable[[_Along, int, int], int], pays: Callable[[_Along, int, int], bool], candidate: Candidate
) -> Narrowing | Reason:
    """Narrow what pays: the columns, the rows, or both.

    Args:
        count: says how many channels to keep; of what lies behind them, how many there must be, and are.
        pays: says whether to gather; of what lies behind the channels, the weight elements that the layer then does
            without (each of them multiplied at every place), and the channels that are moved.
        candidate: the layer.
    """
    part, taps = candidate.narrowest, candidate.linear.matrix.shape[3]
    behind = _Along.PIXELS if candidate.image else _Along.POINTS
    read, made = (_Along.NOTHING if last else behind for last in candidate.last)
    columns = candidate.linear.with_others(_filled(part.columns, candidate.kept_in, partial(count, read)))
    rows = _filled(part.rows, candidate.kept_out, partial(count, made))
    inner, out = int(candidate.kept_in.sum()), int(candidate.kept_out.sum())
    away = inner - int(columns.sum()), out - int(rows.sum())
    if not pays(made, away[1] * int(columns.sum()) * taps, out):
        rows, away = candidate.kept_out, (away[0], 0)
    if not pays(read, away[0] * int(rows.sum()) * taps, int(columns.sum())):
        columns, away = candidate.kept_in, (0, away[1])
    return Narrowing(columns, rows, part.shared_zero_row if away[1] else -1) if any(away) else Reason.SLOWER


def _filled(chosen: Bools, kept: Bools, count: Callable[[int, int], int]) -> Bools:
    """NarrowingPolicy a few more of what stays."""
    missing = count(int(chosen.sum()), int(kept.sum())) - int(chosen.sum())
    result: Bools = chosen.copy()
    result[np.flatnonzero(kept & ~chosen)[:missing]] = True
    return result


def _multiples(analysis: Analysis, multiple: int) -> Sequence[Constraint]:
    """Round the inputs and outputs of all layers with weights."""
    found: dict[bytes, Constraint] = {}
    for node in analysis.graph.nodes:
        rule = analysis.rules[node.index]
        if rule.linear is None or not analysis.context.is_activation(node.outputs[0]):
            continue
        linear = rule.linear(node, analysis.context)
        for name, axis in ((linear.data, linear.data_axis), (node.outputs[0], linear.output_axis)):
            ids = analysis.context.ids(name)
            if ids.shape[axis] == ids.size > 1:
                found[analysis.labels[ids].tobytes()] = RoundUp(ids.reshape(1, -1), partial(next_multiple, multiple))
    return list(found.values())


def next_multiple(multiple: int, kept: int, original: int) -> int:
    """Return the next multiple of a number from ``kept`` on, never above the original."""
    return min(-(-kept // multiple) * multiple, original)


def blocked(divisor: int, kept: int, original: int) -> int:
    """Return how many channels onnxruntime's blocked kernels compute in the time of ``kept``, or a little more.

    Counts that are no multiple of 4 fall off the blocked path; some operators want whole blocks of 16. With no more
    than 3/8 of the channels left nothing is slower than it was. (Measured by tools/measure/measure_rounding.py.)
    """
    four = -(-kept // 4) * 4
    if 8 * four <= 3 * original:
        return min(four, original)
    return min(original, max(-(-kept // divisor) * divisor, _SMALLEST_BLOCK))


def _automatic(analysis: Analysis) -> Sequence[Constraint]:
    """Round the channels that some 2-D convolution reads or writes as its strictest neighbour wants it.

    Besides, operators say themselves which removals would not pay.
    """
    wanted: dict[bytes, int] = {}
    arrays: dict[bytes, Classes] = {}
    convolved: set[bytes] = set()
    for node in analysis.graph.nodes:
        alignment = analysis.rules[node.index].alignment
        if alignment is None:
            continue
        groups, divisor = alignment(node, analysis.context)
        for ids in _channel_ids(analysis, node):
            table = ids.reshape(groups, -1) if ids.size % max(1, groups) == 0 else ids.reshape(1, -1)
            key = repr(table.shape).encode() + analysis.labels[table].tobytes()
            arrays[key] = table
            wanted[key] = max(wanted.get(key, 1), divisor)
            if analysis.rules[node.index].linear is not None:
                convolved.add(key)
    rounded = [RoundUp(arrays[key], partial(blocked, wanted[key])) for key in wanted if key in convolved]
    return [*_not_paying(analysis), *rounded]


def _not_paying(analysis: Analysis) -> Iterator[Constraint]:
    for node in analysis.graph.nodes:
        pays = analysis.rules[node.index].worthwhile
        if pays is not None and analysis.context.is_activation(node.outputs[0]):
            yield from pays(node, analysis.context)


def _channel_ids(analysis: Analysis, node: Node) -> list[Classes]:
    """Return the channel classes of the images that a node reads and writes."""
    context = analysis.context
    names = [name for name in (*node.inputs, *node.outputs) if name and context.is_activation(name)]
    images = [context.ids(name) for name in names if context.rank(name) == 4]
    return [np.ascontiguousarray(ids.ravel()) for ids in images if ids.shape[1] == ids.size > 1]
