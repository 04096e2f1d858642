"""GroupNormalization of opset 21, also where an exporter spelt it out, exact over the original width of each group.

Of the n channels of a group k are left, a = k / n; the others held constants of mean m and variance v. With the mean
``mu = a mean(x) + (1 - a) m`` the original's variance is ``a mean((x - mu)^2) + (1 - a) (v + (m - mu)^2)``, both means
over the channels that are left. No constant has to stay to stand for others: unlike a LayerNormalization, which has a
kernel of its own, this is written out, in no more passes over the image than the InstanceNormalization with a scale and
a bias that exporters write. (Measured by tools/measure/measure_group_norm.py.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats, all_finite, any_along
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.constraints import Groups
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import PATTERN_DOMAIN, Node
from onnxsqueeze.operators.normalization.writing import compute_mean
from onnxsqueeze.rules.channels import channel_constants, channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import channel_parameters
from onnxsqueeze.rules.queries import constant_vector
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter


def _channels(node: Node, context: Context) -> int | None:
    shape = context.shape(node.inputs[0])
    return shape[1] if len(shape) > 2 and isinstance(shape[1], int) else None


def _groups(node: Node) -> int:
    return int(node.attributes["num_groups"])


def _applies(node: Node, context: Context) -> Refusal | None:
    channels = _channels(node, context)
    if channels is None or channels % _groups(node):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} of an unknown number of channels")
    for position in (1, 2):
        array = context.value(node.input(position)) if node.input(position) else None
        if node.input(position) and array is None:
            return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
        if array is not None and not all_finite(array):
            return Refusal(Reason.NOT_FINITE, node.inputs[position])
        if array is not None and not _fits(array.shape, node, context):
            return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with parameters of another shape")
    return None


def _fits(shape: tuple[int, ...], node: Node, context: Context) -> bool:
    """Whether a parameter is one number for each channel; that of spelt-out nodes broadcasts against the image."""
    if node.group is None:
        return shape == (_channels(node, context),)
    rank, channels = context.rank(node.inputs[0]), _channels(node, context)
    image = (1,) * (rank - len(shape)) + shape
    return len(shape) <= rank and image == (1, channels) + (1,) * (rank - 2)


def _parameter(node: Node, context: Context, position: int, default: float) -> Floats:
    """Return scale or bias in float64, one for each channel [groups, n]."""
    channels, groups = _channels(node, context), _groups(node)
    assert channels is not None
    vector = constant_vector(context, node.input(position)) if node.input(position) else None
    if vector is None:
        vector = np.full(channels, default)
    return np.broadcast_to(vector.reshape(groups, -1), (groups, channels // groups))


def _constants(node: Node, context: Context) -> Floats:
    """Return the value of each channel that is one constant at all positions, NaN elsewhere; [groups, n]."""
    values = channel_constants(context, node.inputs[0], 1)
    return np.broadcast_to(values, (_channels(node, context) or 0,)).reshape(_groups(node), -1)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A channel without scale is its bias; a group of constants stays one."""
    scale, bias, values = (
        _parameter(node, context, 1, 1.0),
        _parameter(node, context, 2, 0.0),
        _constants(node, context),
    )
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    deviation = np.sqrt(values.var(axis=1, keepdims=True) + epsilon)
    whole = scale * (values - values.mean(axis=1, keepdims=True)) / deviation + bias
    known = np.where(scale == 0, bias, whole)
    shape = (1, -1) + (1,) * (context.rank(node.inputs[0]) - 2)
    lower, upper = (np.where(np.isnan(known), bound, known).reshape(shape) for bound in (-np.inf, np.inf))
    return [Interval(lower, upper)]


def _link(node: Node, context: Context) -> None:
    """Each group that stays keeps as many channels as every other."""
    ids = channel_ids(context, node.inputs[0], 1)
    context.elements.ids[node.outputs[0]] = context.ids(node.inputs[0])
    if ids.size > 1:
        table = ids.reshape(_groups(node), -1)
        context.elements.constraints.append(Groups(table, table))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A group is read as a whole; a constant in it that differs from place to place cannot leave."""
    name, rank = node.inputs[0], context.rank(node.inputs[0])
    channels = _channels(node, context)
    wanted = np.broadcast_to(outputs[0].ravel(), (channels or 0,)).reshape(_groups(node), -1).any(axis=1, keepdims=True)
    values = _constants(node, context)
    live = np.broadcast_to(wanted, values.shape)
    shape = (1, -1) + (1,) * (rank - 2)
    uneven = (live & np.isnan(values)).reshape(shape) & context.interval(name).constant
    return [
        Demand(live.reshape(shape), uneven, Reason.CONSTANT_VARIES, node.operator),
        *(None for _ in node.inputs[1:]),
    ]


@dataclass(frozen=True)
class _Narrowed:
    """What is left of a node: of G groups with n channels g with k each.

    Attributes:
        node, rewriter: where it stands.
        kept: the channels that stay [G, n].
        scale, bias: those of channels that stay, float64 [g, k].
        mean, variance: those of the constants that left each group, float64 [g, 1].
        epsilon: of the original.
    """

    node: Node
    context: Context
    rewriter: Rewriter
    kept: Bools
    scale: Floats
    bias: Floats
    mean: Floats
    variance: Floats
    epsilon: float

    @property
    def share(self) -> float:
        """The fraction of each group that is left."""
        return float(self.scale.shape[1] / self.kept.shape[1])

    @property
    def groups(self) -> int:
        """The number of groups that are left."""
        return len(self.scale)


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    name, channels = node.inputs[0], _channels(node, context)
    kept = np.broadcast_to(rewriter.kept(name, 1), (channels or 0,)).reshape(_groups(node), -1)
    if kept.all():
        return
    groups = any_along(kept, 1)
    scale, bias = (
        _parameter(node, context, position, default)[groups][kept[groups]].reshape(int(groups.sum()), -1)
        for position, default in ((1, 1.0), (2, 0.0))
    )
    removed = np.where(kept, np.nan, _constants(node, context))[groups]
    count = np.maximum(1, (~kept[groups]).sum(axis=1, keepdims=True))
    mean = np.nansum(removed, axis=1, keepdims=True) / count
    variance = np.nansum((removed - mean) ** 2, axis=1, keepdims=True) / count
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    narrowed = _Narrowed(node, context, rewriter, kept, scale, bias, mean, variance, epsilon)
    if node.group is None and narrowed.share == 1:
        _drop_groups(narrowed)
    else:
        _write(narrowed)


def _drop_groups(norm: _Narrowed) -> None:
    """The operator stays one where whole groups left."""
    norm.rewriter.set_attribute(norm.node, "num_groups", norm.groups)
    for position in (1, 2):
        array = norm.context.value(norm.node.inputs[position])
        assert array is not None
        norm.rewriter.set_constant(norm.node, position, array[norm.kept.ravel()])


def _write(norm: _Narrowed) -> None:
    """Write out the definition, in float32 at least; each group's factor is merged with the scales of its channels."""
    rewriter, node = norm.rewriter, norm.node
    data, dtype = node.inputs[0], rewriter.dtype(node.inputs[0])
    half = dtype.itemsize < 4
    kind = np.dtype(np.float32) if half else dtype
    source: Any = rewriter.compute(node, "Cast", [data], to=1) if half else data

    def number(value: Any) -> npt.NDArray[Any]:
        return np.asarray(value, dtype=kind)

    def sizes(*values: int) -> npt.NDArray[Any]:
        return np.array(values, dtype=np.int64)

    grouped = rewriter.compute(node, "Reshape", [source, sizes(0, norm.groups, -1)])
    mean = compute_mean(rewriter, node, grouped, 2)
    if norm.share < 1:
        mean = rewriter.compute(node, "Mul", [mean, number(norm.share)])
        if norm.mean.any():
            mean = rewriter.compute(node, "Add", [mean, number((1 - norm.share) * norm.mean)])
    centred = rewriter.compute(node, "Sub", [grouped, mean])
    squares = compute_mean(rewriter, node, rewriter.compute(node, "Mul", [centred, centred]), 2)
    deviation = _deviation(norm, mean, squares, number)
    factor = rewriter.compute(node, "Div", [number(norm.scale), deviation])
    rank = norm.context.rank(data)
    factor = rewriter.compute(node, "Reshape", [factor, sizes(0, norm.scale.size, *(1,) * (rank - 2))])
    image = rewriter.compute(node, "Reshape", [centred, rewriter.compute(node, "Shape", [source])])
    bias = number(norm.bias.reshape((-1,) + (1,) * (rank - 2)))
    operands = [rewriter.compute(node, "Mul", [image, factor]), bias]
    if half:
        rewriter.replace(node, "Cast", [rewriter.compute(node, "Add", operands)], to=norm.context.dtypes[data])
    else:
        rewriter.replace(node, "Add", operands)


def _deviation(norm: _Narrowed, mean: Any, squares: Any, number: Any) -> Any:
    """Return the standard deviation of each original group [N, g, 1]; all terms under the root are positive."""
    rewriter, node = norm.rewriter, norm.node
    variance, rest = squares, np.full((1, 1), norm.epsilon)
    if norm.share < 1:
        gap = rewriter.compute(node, "Sub", [mean, number(norm.mean)]) if norm.mean.any() else mean
        outside = rewriter.compute(node, "Mul", [rewriter.compute(node, "Mul", [gap, gap]), number(1 - norm.share)])
        inside = rewriter.compute(node, "Mul", [squares, number(norm.share)])
        variance = rewriter.compute(node, "Add", [inside, outside])
        rest = rest + (1 - norm.share) * norm.variance
    return rewriter.compute(node, "Sqrt", [rewriter.compute(node, "Add", [variance, number(rest)])])


def _rule(domain: str, since: int) -> OpRule:
    return OpRule(
        "GroupNormalization",
        domain,
        since=since,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
        parameters=channel_parameters((1, Role.FACTOR), (2, Role.SUMMAND)),
        infer=lambda node, context: [context.shapes.get(node.inputs[0])],
    )


register(_rule("", 21), _rule(PATTERN_DOMAIN, 1))
