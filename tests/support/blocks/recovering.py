"""Minimize a network with planted units, and demand the small one's matrices and the wide one's outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from math import prod

import onnx
import torch
from torch import Tensor, nn

from tests.support.blocks.cases import BLOCKS
from tests.support.blocks.exporting import OLDER_FUSED, export
from tests.support.blocks.planting import Axes, Spare, plant, sizes_of, spread
from tests.support.planted.checks import SINGLE, deviation, kernels_of, minimize, run

Shapes = Counter[tuple[int, ...]]

HALF = 5e-3
"""Largest deviation in float16, relative to the output's scale: its 5e-4 in each of some ten layers."""


def assert_recovers(
    wide: nn.Module, expected: Shapes, inputs: Iterable[Tensor], exporter: str, dynamic: tuple[int, ...] = ()
) -> None:
    """Assert that a network comes back with a smaller one's matrices and its own outputs.

    Args:
        wide: the network.
        expected: the shapes of the smaller one's matrices, see `matrices`.
        inputs: what to run on, in onnxruntime with and without its optimizations in turns.
        exporter: how to export, see `blocks.exporting`.
        dynamic: axes of the input with a dynamic size, besides the batch.
    """
    inputs = list(inputs)
    model = export(wide, inputs[0], exporter, dynamic)
    result = minimize(model)
    for turn, x in enumerate(inputs):
        feeds, optimized = {"x": x.numpy()}, turn % 2 == 0
        tolerance = HALF if next(wide.parameters()).dtype == torch.float16 else SINGLE
        assert deviation(run(model, feeds, optimized), run(result.model, feeds, optimized)) <= tolerance
    found = _unordered(minimize(model, narrowing=False).model)
    extra, missing = sorted((found - expected).elements()), sorted((expected - found).elements())
    assert found == expected, f"left {extra}, where {missing} is enough: {dict(result.report.stayed)}"


def matrices(small: nn.Module, sample: Tensor, dynamic: tuple[int, ...] = ()) -> Shapes:
    """Return the shapes of a network's matrices and kernels, the axes in order of length; nothing may leave it."""
    model = export(small, sample, OLDER_FUSED, dynamic)
    enough = _unordered(minimize(model, narrowing=False).model)
    assert _elements(enough) == _elements(_unordered(model)), "the small network is not minimal"
    return enough


def assert_block_recovers(
    name: str, exporter: str, axes: Axes | None = None, half: bool = False, **spares: Spare
) -> None:
    """Plant units in a block and assert that it comes back without them.

    Args:
        name: of the block. exporter: how to export it.
        axes: the small network's, if not the block's own.
        half: in float16.
        spares: what to plant, by axis.
    """
    block = BLOCKS[name]
    axes = axes or block.axes
    small = sizes_of(axes, {axis: spare.stay for axis, spare in spares.items()})
    wide = plant(block.build, axes, spares)
    inputs = [block.sample(), block.sample(1, 5)]
    if half:
        wide, inputs = wide.half(), [x if block.words else x.half() for x in inputs]
    assert_recovers(wide, _block_matrices(name, tuple(small.items())), inputs, exporter, block.dynamic)


@cache
def _block_matrices(name: str, sizes: tuple[tuple[str, int], ...]) -> Shapes:
    block = BLOCKS[name]
    network = block.build(dict(sizes)).eval()
    spread(network, torch.Generator().manual_seed(1))
    return matrices(network, block.sample(), block.dynamic)


def _unordered(model: onnx.ModelProto) -> Shapes:
    found: Shapes = Counter()
    for shape, count in kernels_of(model).items():
        found[tuple(sorted(shape))] += count
    return found


def _elements(shapes: Shapes) -> int:
    return sum(count * prod(shape) for shape, count in shapes.items())
