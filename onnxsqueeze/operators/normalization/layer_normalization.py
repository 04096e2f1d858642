"""LayerNormalization, also where an exporter spelt it out, and the CompensatedLayerNorm that this project writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.constraint import Constraint
from onnxsqueeze.coupling.constraints import RoundUp
from onnxsqueeze.graph.graph import OVER_CHANNELS, PATTERN_DOMAIN, Node
from onnxsqueeze.model.compensated_function import DOMAIN, FIRST_OPSET, NAME, compensated_layer_norm
from onnxsqueeze.operators.normalization.by_axes import by_axes
from onnxsqueeze.operators.normalization.channels import (
    along_axis,
    axis_of,
    constants_of,
    keeps_shape,
    link_channels,
    need_channels,
    parameter,
    refusal,
    statistics_refusal,
    width_of,
)
from onnxsqueeze.operators.normalization.compensated import (
    FUSED_SINCE,
    Narrowed,
    compute_primitives,
    compute_stock,
    defer_exact,
    exact_parameters,
)
from onnxsqueeze.operators.normalization.removed import Earlier, Removed
from onnxsqueeze.operators.normalization.representatives import NormRepresentatives, siblings_in
from onnxsqueeze.operators.normalization.restored_input import widen, widens
from onnxsqueeze.rules.contract import Context, OpRule, Refusal
from onnxsqueeze.rules.lessons import KeepWhole
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import operand_parameters
from onnxsqueeze.rules.queries import absorbed_by_readers
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter

_LEAST_WIDTH = 96
_MOST_LEFT = 15 / 16


def _earlier(node: Node, context: Context) -> Earlier:
    """Return what a CompensatedLayerNorm says has left before."""
    width = width_of(node, context)
    assert width is not None
    if node.domain != DOMAIN:
        return Earlier()
    count = int(node.attributes["width"]) - width
    return Earlier(count, float(node.attributes["sum"]), float(node.attributes["squared_deviations"]))


def _applies(node: Node, context: Context) -> Refusal | None:
    return statistics_refusal(node, context) or refusal(node, context, (1, 2))


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A channel without scale is its bias. What a constant became follows from the representatives."""
    scale, bias = parameter(node, context, 1, 1.0), parameter(node, context, 2, 0.0)
    lower, upper = (along_axis(node, context, np.where(scale == 0, bias, bound)) for bound in (-np.inf, np.inf))
    reconstructible = ~np.isnan(constants_of(node, context))
    if widens(node, context) or not reconstructible.any():
        return [Interval(lower, upper)]
    return [Interval(lower, upper, along_axis(node, context, reconstructible))]


def _link(node: Node, context: Context) -> None:
    name, output = node.inputs[0], node.outputs[0]
    if link_channels(node, context):
        constants = constants_of(node, context)
        ids = context.ids(name).ravel()
        wide = widens(node, context)
        context.elements.constraints.append(
            NormRepresentatives(output, ids, constants, _earlier(node, context), siblings_in(context), one=wide)
        )
        if wide:
            context.elements.ids[output] = context.elements.fresh((1,) * context.rank(output))


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    name, output = node.inputs[0], node.outputs[0]
    width = width_of(node, context)
    axis = axis_of(node, context)
    kept = rewriter.kept(name, axis)
    asked = _asked(node, rewriter.options)
    if (kept.size != width or kept.all()) and not asked:
        return
    assert width is not None
    kept = np.broadcast_to(kept, (width,))
    constants = constants_of(node, context)
    if widens(node, context) and not kept.all():
        widen(node, context, rewriter, constants)
        return
    removed = Removed(kept, constants, _earlier(node, context))
    deferred = absorbed_by_readers(context, output, axis, deferred=True)
    scale, bias = parameter(node, context, 1, 1.0), parameter(node, context, 2, 0.0)
    live = np.broadcast_to(rewriter.live(output).ravel(), (width,)) if not kept.all() else np.zeros(width, bool)
    if not deferred and (live & ~kept & (scale != 0)).any():
        raise KeepWhole(output)
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    write(
        Narrowed(node, context, rewriter, name, removed, removed.representatives(), scale, bias, epsilon, deferred),
        rewriter.options.get("layernorm", "stock"),
    )


def _asked(node: Node, options: Mapping[str, str]) -> bool:
    """A function of our own is taken apart unless the user wants functions."""
    return node.domain == DOMAIN and options.get("layernorm", "stock") != "function"


def _pays(node: Node, context: Context) -> Sequence[Constraint]:
    """A compensated norm costs as much as the wide one; the gain is in the products around it.

    Narrow or hardly narrowed streams are left as they are (tools/measure/measure_layer_norm.py).
    """
    ids = context.ids(node.inputs[0])
    told = ids.size == ids.shape[axis_of(node, context)] > 1
    return [RoundUp(ids.reshape(1, -1), _worthwhile)] if told else []


def _worthwhile(kept: int, original: int) -> int:
    pays = original >= _LEAST_WIDTH and kept <= original * _MOST_LEFT
    return kept if pays else original


def write(norm: Narrowed, form: str) -> None:
    """Write a narrowed LayerNorm in the form that a user chose; a function only where the opset allows it."""
    last = norm.axis == norm.context.rank(norm.data) - 1
    if form == "function" and norm.rewriter.opset >= FIRST_OPSET and last:
        scale, bias = exact_parameters(norm)
        attributes = {
            "width": norm.removed.width,
            "epsilon": norm.epsilon,
            "sum": norm.removed.total,
            "squared_deviations": norm.removed.deviations,
        }
        function = compensated_layer_norm(norm.rewriter.opset)
        norm.rewriter.replace(norm.node, NAME, [norm.data, scale, bias], function, **attributes)
        defer_exact(norm)
    elif norm.removed.count == 0 and norm.rewriter.opset >= FUSED_SINCE and last:
        parameters = [norm.present(norm.scale), norm.present(norm.bias)]
        norm.rewriter.replace(norm.node, "LayerNormalization", [norm.data, *parameters], axis=-1, epsilon=norm.epsilon)
    elif form == "primitives" or norm.representatives is None or norm.dtype == np.float64 or not last:
        compute_primitives(norm)  # in float64, an epsilon that is a float32 attribute would be too coarse
    else:
        compute_stock(norm)


_RULE = partial(
    OpRule,
    applies=_applies,
    forward=_forward,
    link=_link,
    need=need_channels,
    repair=_repair,
    worthwhile=_pays,
    requested=_asked,
    infer=keeps_shape,
    parameters=operand_parameters(Role.SUMMAND),
)

# onnxruntime runs and writes it before opset 17 too
_BY_AXES = by_axes(_RULE("LayerNormalization"), centred=True)

register(
    _BY_AXES,
    replace(_BY_AXES, domain=PATTERN_DOMAIN),
    _RULE(OVER_CHANNELS["LayerNormalization"], PATTERN_DOMAIN),
    _RULE(NAME, DOMAIN, since=0),
)
