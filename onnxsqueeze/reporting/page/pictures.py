"""A layer's weight as a small picture: rows are outputs, columns are inputs, each cell a block of the matrix."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.weight_view import Linear

MOST_CELLS = 64  # along either side
LEVELS = 15  # of how much of a block is not zero
GONE = 16  # is added for a block of which nothing stays


@dataclass(frozen=True)
class Picture:
    """The picture of one weight.

    Attributes:
        rows, columns: cells along either side.
        cells: rows * columns bytes, base64: the level of what is not zero (1 to 15, 0 for nothing), and 16 where the
            block has left.
        states: a letter for each row of cells, of what most of its outputs are: "l" live, "c" constant, "d" dead.
    """

    rows: int
    columns: int
    cells: str
    states: str = ""


def picture(analysis: Analysis, plan: Plan, live: Bools, node: Node, linear: Linear) -> Picture:
    """Return the picture of a layer's weight, its groups one below the other.

    Args:
        live: what the outputs depend on of what the layer makes (compact).
    """
    groups, out, inner = linear.reads.shape
    kept_out = np.broadcast_to(_kept(analysis, plan, node.outputs[0], linear.output_axis), (groups * out,)).copy()
    kept_in = np.broadcast_to(_kept(analysis, plan, linear.data, linear.data_axis), (groups * inner,))
    part = plan.narrowings.get(node.index)
    columns = kept_in.reshape(groups, inner)
    if part is not None:
        kept_out, columns = part.rows, part.columns[None]
    stays = kept_out.reshape(groups, out, 1) & columns[:, None, :]
    made = _picture(linear.reads.unpacked().reshape(-1, inner), stays.reshape(-1, inner))
    others = tuple(axis for axis in range(analysis.context.rank(node.outputs[0])) if axis != linear.output_axis)
    dead = ~any_along(live, others)
    constant = analysis.constant(node.outputs[0]).all(axis=others)
    return replace(made, states=_states(*(np.broadcast_to(each, (groups * out,)) for each in (dead, constant))))


def _states(dead: Bools, constant: Bools) -> str:
    """Return what the outputs are, a letter for each row of the picture."""
    names = np.where(constant, 1, np.where(dead, 2, 0))  # as the counts beside it say
    counts = np.stack([np.add.reduceat(names == name, _starts(len(names))) for name in range(3)])
    return "".join("lcd"[most] for most in np.argmax(counts, axis=0))


def _kept(analysis: Analysis, plan: Plan, name: str, axis: int) -> Bools:
    return plan.kept(name, axis, analysis.context.rank(name))


def _picture(nonzero: Bools, stays: Bools) -> Picture:
    filled, left = _shares(nonzero), _shares(stays)
    cells = np.where(filled > 0, np.maximum(1, np.rint(filled * LEVELS)), 0).astype(np.uint8)
    cells = cells + np.where(left == 0, GONE, 0).astype(np.uint8)
    rows, columns = cells.shape
    return Picture(rows, columns, base64.b64encode(cells.tobytes()).decode())


def _shares(mask: Bools) -> npt.NDArray[np.float64]:
    """Return which share of each block of a matrix is set."""
    total = mask.astype(np.float64)
    for axis, length in enumerate(mask.shape):
        starts = _starts(length)
        counts: npt.NDArray[Any] = np.diff([*starts, length])
        total = np.add.reduceat(total, starts, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return total


def _starts(length: int) -> npt.NDArray[np.int64]:
    cells = min(length, MOST_CELLS)
    return (np.arange(cells) * length) // cells
