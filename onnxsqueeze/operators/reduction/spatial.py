"""Operators that mix positions within each channel: pools, Resize, and those that trade channels for space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, enclosing, hull
from onnxsqueeze.abstract.specials import ANY, GAPS, Specials, along, where, without
from onnxsqueeze.abstract.symbolic import Shape, Symbolic, product
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.reduction.max_unpool import reads_only_places
from onnxsqueeze.operators.windows import window_shape
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameters import setting_parameters
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.shapes.computed_shapes import repair_requested_shape


def _channel_axis(node: Node, context: Context) -> int:
    """Return where the channels are: 1, but the last axis where Resize leaves that alone, and not the former."""
    source, target = (context.shapes.get(name, ()) for name in (node.inputs[0], node.outputs[0]))
    if len(source) == len(target) > 2 and source[1] != target[1] and source[-1] == target[-1]:
        return len(source) - 1
    return 1


def _space(node: Node, context: Context) -> tuple[int, ...]:
    channels = _channel_axis(node, context)
    return tuple(axis for axis in range(1, context.rank(node.inputs[0])) if axis != channels)


def _link_space(node: Node, context: Context) -> None:
    """Positions are deferred, so that they share a class; channels stay apart."""
    name = node.inputs[0]
    ids = context.elements.merge(context.ids(name), _space(node, context))
    if context.is_activation(name):
        context.elements.ids[name] = ids
    for output in node.outputs:
        if output:
            context.elements.ids[output] = ids


def _need_space(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    live = outputs[0]
    for other in outputs[1:]:
        live = live | other
    axes = _space(node, context)
    return [Demand(any_along(live, axes, keepdims=True)), *held_sizes(node)[1:]]


def _kept_interval(node: Node, context: Context) -> Sequence[Interval]:
    """What lies within bounds stays within them, and a constant stays what it is."""
    name = node.inputs[0]
    return [collapse(context.interval(name), _space(node, context))]


def _pooled_specials(node: Node, context: Context) -> Sequence[Specials | None]:
    """Places that a border or a mask leaves out are none of a maximum, unless the network tests what comes of it."""
    flags = context.special(node.inputs[0])
    if flags is None:
        return [None for _ in node.outputs]
    found = along(flags, _space(node, context))
    greatest = node.op in ("MaxPool", "GlobalMaxPool")
    if not greatest:
        found = where(found > 0, ANY)
    elif node.index not in context.tested:
        found = without(found, GAPS)
    return [found, None][: len(node.outputs)]


def _max_pool_applies(node: Node, context: Context) -> Refusal | None:
    if len(node.outputs) > 1 and node.outputs[1] and not reads_only_places(context.graph, node.outputs[1]):
        return Refusal(Reason.UNKNOWN_OPERATOR, "MaxPool whose indices are read")
    return None


def _average_interval(node: Node, context: Context) -> Sequence[Interval]:
    """Padding that counts as zeros draws values towards zero."""
    (interval,) = _kept_interval(node, context)
    if not node.attributes.get("count_include_pad", 0):
        return [interval]
    padded = any(node.attributes.get("pads", ())) or str(node.attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    if not padded and not node.attributes.get("ceil_mode", 0):
        return [interval]
    return [hull([interval, Interval(np.float64(0.0), np.float64(0.0))])]


def _norm_interval(node: Node, context: Context) -> Sequence[Interval]:
    """A norm is at least 0; over as many equal constants everywhere it is one constant."""
    (interval,) = _kept_interval(node, context)
    area = _norm_area(node, context)
    constant = interval.constant & ((interval.lower == 0) | (area is not None))
    factor = float(area or 1) ** (1.0 / float(node.attributes.get("p", 2)))
    at = np.where(constant, np.abs(np.where(constant, interval.lower, 0.0)) * factor, 0.0)
    return [enclosing(at, np.where(constant, at, np.inf))]


def _norm_area(node: Node, context: Context) -> int | None:
    """Return how many positions each window of an Lp pool sees, None where that varies."""
    if node.op == "GlobalLpPool":
        area = product(context.shape(node.inputs[0])[2:])
        return None if isinstance(area, Symbolic) else area
    varies = any(node.attributes.get("pads", ())) or str(node.attributes.get("auto_pad", "")).startswith("SAME")
    return None if varies or node.attributes.get("ceil_mode", 0) else int(np.prod(node.attributes["kernel_shape"]))


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    """A mean over positions passes a vector over channels on, unless padding counts as zeros."""
    inside = not any(node.attributes.get("pads", ())) and not str(node.attributes.get("auto_pad", "")).startswith(
        "SAME"
    )
    exact = node.op == "GlobalAveragePool" or (inside and not node.attributes.get("ceil_mode", 0))
    return axis if exact and axis == 1 else None


def _pool(op: str, forward: object = _kept_interval, **fields: object) -> OpRule:
    fields.setdefault("infer", _pool_shape)
    fields.setdefault("specials", _pooled_specials)
    return OpRule(op, forward=forward, link=_link_space, need=_need_space, **fields)  # type: ignore[arg-type]


def _pool_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    if "kernel_shape" not in node.attributes or node.inputs[0] not in context.shapes:
        return [None]
    return window_shape(node, context, context.shape(node.inputs[0])[1], node.attributes["kernel_shape"])


def _whole_blocks(node: Node, context: Context) -> tuple[int, int]:
    return 1, 16


register(
    _pool("MaxPool", applies=_max_pool_applies, alignment=_whole_blocks),
    _pool("AveragePool", _average_interval, carries=_carries, alignment=_whole_blocks),
    _pool("LpPool", _norm_interval),
    _pool("GlobalMaxPool", alignment=_whole_blocks),
    _pool("GlobalAveragePool", carries=_carries, alignment=_whole_blocks),
    _pool("GlobalLpPool", _norm_interval),
)


def _resize_applies(node: Node, context: Context) -> Refusal | None:
    """Batch and channels must not be resized, and nothing but the image itself may come in."""
    data, output = node.inputs[0], node.outputs[0]
    if context.rank(data) < 3 or node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    axes = node.attributes.get("axes")
    if axes is not None and all(axis % context.rank(data) >= 2 for axis in axes):
        return None
    source, target, channels = context.shape(data), context.shape(output), _channel_axis(node, context)
    factors = _factors(node, context)
    scaled = factors is not None and factors.size == len(source) and factors[channels] != 1
    if source[channels] != target[channels] or isinstance(source[channels], Symbolic) or scaled:
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} of channels")
    return None


def _factors(node: Node, context: Context) -> Array | None:
    """Return what the axes are multiplied by, None where that is computed or sizes are given."""
    position = 2 if node.op == "Resize" and node.version >= 11 else 1
    scales = context.value(node.input(position)) if node.input(position) else None
    return None if scales is None or scales.dtype == object or not scales.size else scales


def _resized_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    """Return the output shape for sizes or whole factors given for all axes; the rest is left to onnx."""
    if node.inputs[0] not in context.shapes or "axes" in node.attributes:
        return [None]
    source = context.shape(node.inputs[0])
    sizes = context.sizes(node.input(3)) if node.input(3) else None
    if sizes is not None and node.attributes.get("keep_aspect_ratio_policy", "stretch") == "stretch":
        return [tuple(size if isinstance(size, Symbolic) else int(size) for size in sizes)]
    scales = _factors(node, context)
    if scales is None or scales.size != len(source) or (scales != np.floor(scales)).any():
        return [None]
    return [tuple(size * int(scale) for size, scale in zip(source, scales, strict=True))]


def _resize_interval(node: Node, context: Context) -> Sequence[Interval]:
    """Interpolation keeps a constant; a cubic may overshoot any other bounds."""
    (interval,) = _kept_interval(node, context)
    if node.attributes.get("mode", "nearest") != "cubic":
        return [interval]
    constant = interval.constant
    return [Interval(np.where(constant, interval.lower, -np.inf), np.where(constant, interval.upper, np.inf))]


def _resize(op: str, **fields: object) -> OpRule:
    fields.update(applies=_resize_applies, infer=_resized_shape, parameters=setting_parameters)
    return _pool(op, _resize_interval, **fields)


register(
    _resize("Resize", repair=repair_requested_shape, shape_input=3, since=10),
    _resize("Upsample"),
)


def _block_area(node: Node) -> int:
    return int(node.attributes["blocksize"]) ** 2


def _depth_applies(node: Node, context: Context) -> Refusal | None:
    channels = context.shape(node.inputs[0])[1]
    return Refusal(Reason.UNKNOWN_SHAPE, node.operator) if isinstance(channels, Symbolic) else None


def _blocks(node: Node, context: Context, array: Array) -> Array:
    """Return a channel vector of the input as [batch, positions in a block, output channels]."""
    channels = int(context.shape(node.inputs[0])[1])  # type: ignore[arg-type]
    area = _block_area(node)
    flat: Array = np.broadcast_to(array.reshape(array.shape[0], -1), (array.shape[0], channels))
    if _channels_first(node):
        return np.asarray(flat.reshape(len(flat), channels // area, area).transpose(0, 2, 1))
    blocked: Array = flat.reshape(len(flat), area, channels // area)
    return blocked


def _depth_link(node: Node, context: Context) -> None:
    """The channels that become one output channel's positions leave together."""
    name, elements = node.inputs[0], context.elements
    ids = elements.merge(context.ids(name), (0, 2, 3))
    if context.is_activation(name):
        elements.ids[name] = ids
    merged = elements.merge(_blocks(node, context, ids), (1,))
    elements.ids[node.outputs[0]] = merged.reshape(1, -1, 1, 1)


def _depth_forward(node: Node, context: Context) -> Sequence[Interval]:
    interval = collapse(context.interval(node.inputs[0]), (0, 2, 3))
    lower, upper = (
        _blocks(node, context, interval.lower).min(axis=1),
        _blocks(node, context, interval.upper).max(axis=1),
    )
    return [Interval(lower.reshape(1, -1, 1, 1), upper.reshape(1, -1, 1, 1))]


def _depth_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    area, channels = _block_area(node), int(context.shape(node.inputs[0])[1])  # type: ignore[arg-type]
    live = np.broadcast_to(outputs[0].reshape(1, -1), (area, channels // area))  # where they stay or go together, too
    flat = live.T.ravel() if _channels_first(node) else live.ravel()
    live = flat.reshape(1, -1, 1, 1)
    uneven = live & context.interval(node.inputs[0]).constant & ~_alike(node, context)
    return [Demand(live, uneven, Reason.CONSTANT_READ, node.operator)]


def _alike(node: Node, context: Context) -> Bools:
    """Return the input channels whose block is the same constant at each of its positions."""
    (interval,) = _depth_forward(node, context)
    constant = np.broadcast_to(interval.constant.reshape(1, -1), (_block_area(node), interval.constant.size))
    flat = constant.T.ravel() if _channels_first(node) else constant.ravel()
    return flat.reshape(1, -1, 1, 1)


def _space_link(node: Node, context: Context) -> None:
    """Each input channel becomes one output channel for each position in a block."""
    name, elements = node.inputs[0], context.elements
    ids = elements.merge(context.ids(name), (0, 2, 3))
    if context.is_activation(name):
        elements.ids[name] = ids
    channels = int(context.shape(name)[1])  # type: ignore[arg-type]
    elements.ids[node.outputs[0]] = _spread(node, np.broadcast_to(ids, (1, channels, 1, 1)))


def _spread(node: Node, array: Array) -> Array:
    """Repeat what each channel has for each position in a block, in the order of the output's channels."""
    area = _block_area(node)
    return np.repeat(array, area, axis=1) if _channels_first(node) else np.tile(array, (1, area, 1, 1))


def _channels_first(node: Node) -> bool:
    """Whether an axis of channels and positions is [channels, block, block], as it can be from opset 28 on."""
    return bool(node.attributes.get("mode", "DCR") == "CRD")


def _space_forward(node: Node, context: Context) -> Sequence[Interval]:
    interval = collapse(context.interval(node.inputs[0]), (0, 2, 3))
    channels = int(context.shape(node.inputs[0])[1])  # type: ignore[arg-type]
    bounds = (np.broadcast_to(bound, (1, channels, 1, 1)) for bound in (interval.lower, interval.upper))
    return [Interval(*(_spread(node, bound) for bound in bounds))]


def _space_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    flat, area = outputs[0].ravel(), _block_area(node)
    if flat.size == 1:
        return [Demand(flat.reshape(1, 1, 1, 1))]
    blocks = flat.reshape(-1, area).T if _channels_first(node) else flat.reshape(area, -1)
    return [Demand(blocks.any(axis=0).reshape(1, -1, 1, 1))]


register(
    OpRule(
        "DepthToSpace",
        applies=_depth_applies,
        forward=_depth_forward,
        link=_depth_link,
        need=_depth_need,
        traits=frozenset({Trait.CARRIES_OVER}),
    ),
    OpRule(
        "SpaceToDepth",
        applies=_depth_applies,
        forward=_space_forward,
        link=_space_link,
        need=_space_need,
        traits=frozenset({Trait.CARRIES_OVER}),
    ),
)
