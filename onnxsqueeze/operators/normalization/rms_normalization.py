"""RMSNormalization, also where an exporter spelt it out; it stays one operator over what is left of its channels.

With K of N channels left and constants c_j removed, the mean of the squares over N channels is K / N times that over K
plus the sum of c_j^2 / N, so that ``epsilon' = (epsilon + sum c_j^2 / N) N / K`` and ``scale' = scale sqrt(N / K)``
give exactly what was. A removed channel's output is ``scale_j c_j / rms``: 0 if c_j is, else a multiple of any other
constant's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnxsqueeze.abstract.compact import Array, Floats
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.constraints import Representative, choose_representatives
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import OVER_CHANNELS, PATTERN_DOMAIN, Node
from onnxsqueeze.operators.normalization.by_axes import by_axes
from onnxsqueeze.operators.normalization.channels import (
    along_axis,
    axis_of,
    constants_of,
    keeps_shape,
    link_channels,
    need_channels,
    parameter,
    placed,
    refusal,
    width_of,
)
from onnxsqueeze.operators.normalization.removed import Earlier
from onnxsqueeze.operators.normalization.representatives import NormRepresentatives, siblings_in
from onnxsqueeze.operators.normalization.restored_input import widen, widens
from onnxsqueeze.operators.normalization.writing import compute_mean
from onnxsqueeze.rules.contract import Context, OpRule, Refusal
from onnxsqueeze.rules.lessons import FoldOverflow, KeepWhole
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import operand_parameters
from onnxsqueeze.rules.queries import absorbed_by_readers
from onnxsqueeze.rules.reconstruction import Reconstruction
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter


def _applies(node: Node, context: Context) -> Refusal | None:
    if any(name and (context.graph.readers.get(name) or name in context.graph.outputs) for name in node.outputs[1:]):
        return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} whose deviation is read")
    return refusal(node, context, (1,))


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Zero stays zero; what another constant became follows from a representative."""
    scale, constants = parameter(node, context, 1, 1.0), constants_of(node, context)
    zero = along_axis(node, context, (scale == 0) | (constants == 0))
    lower, upper = np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf)
    reconstructible = along_axis(node, context, ~np.isnan(constants))
    if widens(node, context) or not (reconstructible & ~zero).any():
        return [Interval(lower, upper)]
    return [Interval(lower, upper, reconstructible)]


def _link(node: Node, context: Context) -> None:
    name, output = node.inputs[0], node.outputs[0]
    if not link_channels(node, context):
        return
    if widens(node, context):
        ids, siblings = context.ids(name).ravel(), siblings_in(context)
        context.elements.constraints.append(
            NormRepresentatives(output, ids, constants_of(node, context), Earlier(), siblings, one=True)
        )
        context.elements.ids[output] = context.elements.fresh((1,) * context.rank(output))
    else:
        read = np.nan_to_num(constants_of(node, context)) * (parameter(node, context, 1, 1.0) != 0)
        if read.any():
            channels = context.ids(name).reshape(1, -1)
            context.elements.constraints.append(Representative(output, channels, read[None]))


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    name, output = node.inputs[0], node.outputs[0]
    width = width_of(node, context)
    axis = axis_of(node, context)
    kept = rewriter.kept(name, axis)
    if width is None or kept.size != width or kept.all():
        return
    if widens(node, context):
        widen(node, context, rewriter, constants_of(node, context))
        return
    constants, scale = np.nan_to_num(constants_of(node, context)), parameter(node, context, 1, 1.0).copy()
    live = np.broadcast_to(rewriter.live(output).ravel(), (width,))
    if (live & ~kept & (scale * constants != 0)).any():
        if not absorbed_by_readers(context, output, axis, deferred=True):
            raise KeepWhole(output)
        chosen = choose_representatives(kept[None], constants[None] * (scale != 0))
        rewriter.defer_reconstruction(output, _reconstruction(axis, kept, constants, scale, int(chosen[0])))
        scale[chosen] = 1.0
    growth = width / float(kept.sum())
    removed = constants[~kept]
    epsilon = (float(node.attributes.get("epsilon", 1e-5)) + float(removed @ removed) / width) * growth
    array = context.value(node.input(1)) if node.input(1) else None
    dtype = rewriter.dtype(name) if array is None else array.dtype
    narrowed = scale[kept] * np.sqrt(growth)
    rewriter.check_finite(narrowed, dtype, partial(FoldOverflow, name))
    half = node.group is not None and node.group.numbers["epsilon"][1].dtype.itemsize == 2
    scaled = node.group is None or bool(node.input(1))
    if not scaled or (half and dtype == rewriter.dtype(name) and removed.any()):
        _write_unfused(node, context, rewriter, epsilon, placed(node, context, narrowed).astype(dtype))
        return
    rewriter.set_attribute(node, "epsilon", epsilon)
    rewriter.set_constant(node, 1, placed(node, context, narrowed).astype(dtype))


def _write_unfused(node: Node, context: Context, rewriter: Rewriter, epsilon: float, scale: Array) -> None:
    """Spell the norm out with its scale, which the nodes that it came from need not have.

    The square becomes a product: onnxruntime fuses a power, and then reads no float16 epsilon. It takes 1e-5, which
    hardly differs from what is usual, but from one that stands for constants.
    """
    name = node.inputs[0]
    square = rewriter.compute(node, "Mul", [name, name])
    mean = compute_mean(rewriter, node, square, axis_of(node, context))
    summand = np.asarray(epsilon, dtype=rewriter.dtype(name))
    root = rewriter.compute(node, "Sqrt", [rewriter.compute(node, "Add", [mean, summand])])
    rewriter.replace(node, "Mul", [rewriter.compute(node, "Div", [name, root]), scale])


def _reconstruction(axis: int, kept: np.ndarray, constants: Floats, scale: Floats, chosen: int) -> Reconstruction:
    """Every constant's output is a multiple of the representative's, which itself is written without its scale."""
    own = kept.copy()
    own[chosen] = False
    share = np.where(own, 0.0, scale * constants / constants[chosen])
    return Reconstruction(axis, np.array([chosen]), np.zeros(len(kept)), own, share[:, None])


_RULE = partial(
    OpRule,
    applies=_applies,
    forward=_forward,
    link=_link,
    need=need_channels,
    repair=_repair,
    infer=keeps_shape,
    parameters=operand_parameters(Role.FACTOR),
)

_BY_AXES = by_axes(_RULE("RMSNormalization", since=23), centred=False)

register(
    _BY_AXES,
    replace(_BY_AXES, domain=PATTERN_DOMAIN, since=1),
    _RULE(OVER_CHANNELS["RMSNormalization"], PATTERN_DOMAIN),
    _RULE("SimplifiedLayerNormalization"),
)
