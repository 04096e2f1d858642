"""Layers that move channels about, reduce or repeat them."""

from __future__ import annotations

import numpy as np

from tests.end_to_end.random_networks.network import Network, Tensor
from tests.end_to_end.random_networks.weighted import conv


def split(net: Network, x: Tensor) -> Tensor | None:
    """Cut the channels in two; gate one with the other, swap them, or go on with one."""
    if x.channels < 2:
        return None
    first = x.channels // 2 if net.chance(0.7) else net.whole(1, x.channels - 1)
    parts = (first, x.channels - first)
    if net.opset >= 13:
        a, b = net.split("Split", x, net.integers(*parts), outputs=2, axis=1)
    else:
        a, b = net.split("Split", x, outputs=2, axis=1, split=list(parts))
    if a.channels == b.channels and net.chance(0.5):
        return net.add(net.pick("Add", "Mul", "Max"), a, net.add("Sigmoid", b))
    return net.add("Concat", b, a, axis=1) if net.chance(0.6) else net.pick(a, b)


def part(net: Network, x: Tensor) -> Tensor | None:
    """Slice channels, forwards in steps or backwards."""
    if x.channels < 3:
        return None
    start = net.whole(0, x.channels - 2)
    stop, step = net.whole(start + 1, x.channels), net.pick(1, 1, 2, -1)
    first, last = (stop - 1, start - 1 if start else -1000) if step < 0 else (start, stop)
    return net.add("Slice", x, net.integers(first), net.integers(last), net.integers(1), net.integers(step))


def cropped(net: Network, x: Tensor) -> Tensor | None:
    """Slice away the border of a map."""
    if not x.spatial or x.least < 3:
        return None
    starts, stops = net.integers(*[1] * x.spatial), net.integers(*[np.iinfo(np.int64).max] * x.spatial)
    return net.add("Slice", x, starts, stops, net.integers(*x.space))


def gather(net: Network, x: Tensor) -> Tensor:
    """Take channels in any order, some of them twice."""
    taken = net.random.integers(0, x.channels, net.whole(1, x.channels + 1))
    return net.add("Gather", x, net.integers(*(int(i) for i in taken)), axis=1)


def shuffle(net: Network, x: Tensor) -> Tensor | None:
    """Shuffle channels between groups: Reshape, Transpose, Reshape."""
    groups = net.pick(2, 3)
    if x.channels % groups:
        return None
    extents = net.extents(x)
    y = net.add("Reshape", x, net.sizes(0, groups, x.channels // groups, *extents))
    y = net.add("Transpose", y, perm=[0, 2, 1, *range(3, x.rank + 1)])
    channels = net.extent(x, 1) if net.chance(0.3) else x.channels
    return net.add("Reshape", y, net.sizes(0, channels, *extents))


def computed_reshape(net: Network, x: Tensor) -> Tensor:
    """Flatten, and come back to the shape that was read before: Shape, Gather, Concat, Reshape."""
    sizes = net.sizes(net.extent(x, 0), net.extent(x, 1), *[net.extent(x, axis) for axis in x.space])
    y = net.add("Flatten", x, axis=1) if net.chance(0.5) else net.add("Reshape", x, net.integers(0, -1))
    return net.add("Reshape", net.add("Relu", y), sizes)


def axis_and_back(net: Network, x: Tensor) -> Tensor:
    """Unsqueeze an axis, do something, and squeeze it again."""
    axis = net.whole(0, x.rank)
    y = net.add(net.pick("Tanh", "Sigmoid"), net.with_axes("Unsqueeze", x, [axis]))
    return net.with_axes("Squeeze", y, [axis])


def pad(net: Network, x: Tensor) -> Tensor:
    """Pad channels, places or both with a constant."""
    before, after, border = net.whole(0, 2), net.whole(0, 2), net.pick(0, 1)
    pads = [0, before, *[border] * x.spatial, 0, after, *[border] * x.spatial]
    return net.add("Pad", x, net.integers(*pads), net.constant(net.pick(0, 0.5)))


def mirrored(net: Network, x: Tensor) -> Tensor | None:
    """Pad places with what is near them."""
    if not x.spatial or x.least < 2:
        return None
    border = [0, 0, *[1] * x.spatial]
    return net.add("Pad", x, net.integers(*border, *border), mode=net.pick("reflect", "edge"))


def depth_to_space(net: Network, x: Tensor) -> Tensor | None:
    """Turn channels into places."""
    if x.spatial != 2:
        return None
    y = x if x.channels % 4 == 0 else conv(net, x, units=net.pick(4, 8))
    return y and net.add("DepthToSpace", y, blocksize=2, mode=net.pick("DCR", "CRD"))


def space_to_depth(net: Network, x: Tensor) -> Tensor | None:
    """Turn places into channels."""
    if x.spatial != 2 or x.channels > 8 or any(extent % 2 for shape in x.shapes for extent in shape[2:]):
        return None
    return net.add("SpaceToDepth", x, blocksize=2)


def resize(net: Network, x: Tensor) -> Tensor | None:
    """Double the places, by constant scales or by sizes that are computed."""
    if not x.spatial or x.elements > 1000:
        return None
    where = {"coordinate_transformation_mode": net.pick("asymmetric", "half_pixel")}
    absent = None if net.opset >= 13 else net.constant([], np.float32)
    if x.spatial > 2 or net.chance(0.5):
        scales = net.constant([1, 1, *[2] * x.spatial], np.float32)
        return net.add("Resize", x, absent, scales, mode="nearest", **where)
    doubled = []
    for axis in x.space:
        known = (np.array([2 * x.shapes[0][axis]]), np.array([2 * x.shapes[1][axis]]))
        doubled.append(net.add("Mul", net.extent(x, axis), net.integers(2), values=known))
    sizes = net.sizes(net.extent(x, 0), net.extent(x, 1), *doubled)
    return net.add("Resize", x, absent, absent, sizes, mode=net.pick("nearest", "linear"), **where)


def tile(net: Network, x: Tensor) -> Tensor | None:
    """Repeat the channels or the places."""
    if x.elements > 1000 or x.channels > 8:
        return None
    repeats = [1] * x.rank
    repeats[net.whole(1, x.rank - 1)] = 2
    return net.add("Tile", x, net.integers(*repeats))


def expand(net: Network, x: Tensor) -> Tensor | None:
    """Spread means over the map they come from."""
    if not x.spatial:
        return None
    mean = net.add(net.pick("GlobalAveragePool", "GlobalMaxPool"), x)
    sizes = net.sizes(1, x.channels, *net.extents(x)) if net.chance(0.5) else net.shape(x)
    return net.add("Add", x, net.add("Expand", mean, sizes))


def reduced_channels(net: Network, x: Tensor) -> Tensor:
    """Reduce the channels, and subtract, multiply or append what comes out."""
    op = net.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceLogSumExp")
    y = net.with_axes(op, x, [1], since=13 if op == "ReduceSum" else 18, keepdims=1)
    if net.chance(0.3):
        return net.add("Concat", x, y, axis=1)
    return net.add("Mul", x, net.add("Sigmoid", y)) if net.chance(0.5) else net.add("Sub", x, y)


def reduced_space(net: Network, x: Tensor) -> Tensor | None:
    """Reduce the places, and gate the map with what comes out or go on without them."""
    if not x.spatial:
        return None
    op = net.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare")
    since, keep = 13 if op == "ReduceSum" else 18, net.pick(0, 1, 1)
    axes = net.pick(x.space, [axis - x.rank for axis in x.space])
    y = net.with_axes(op, net.add("Tanh", x), axes, since, keepdims=keep)
    return net.add("Mul", x, net.add("Sigmoid", y)) if keep else y


def own_statistics(net: Network, x: Tensor) -> Tensor:
    """Divide by the channels' root mean square, written out."""
    square = net.with_axes("ReduceMean", net.add("Mul", x, x), [1], since=18, keepdims=1)
    root = net.add("Sqrt", net.add("Add", square, net.constant(0.1)))
    return net.add("Mul", net.add("Div", x, root), net.per_channel(x, net.sparse(x.channels)))
