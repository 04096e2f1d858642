"""What Conv, ConvTranspose, Gemm and MatMul have in common: a constant weight seen as [groups, out, in, taps].

One view lets one piece of code bound, trace, slice and fold all of them. ``out`` and ``in`` are counted per group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.fact import Bools, Fact, Floats, cancelled, interval
from onnxsqueeze.graph import Node
from onnxsqueeze.reason import Reason
from onnxsqueeze.regularity import Classes, Groups, NotEmpty, Representative, choose_representatives
from onnxsqueeze.rule import Array, Context, Demand, FoldOverflow, OpRule, Refusal

if TYPE_CHECKING:
    from onnxsqueeze.editor import Editor

_CHUNK = 1 << 21  # weight elements that are brought to float64 at a time
_CACHED = 1 << 16  # weight elements that stay in a processor's cache while they are read tap by tap


@dataclass(frozen=True)
class Linear:
    """One linear node with a constant weight.

    Attributes:
        data, weight, bias: names of the tensors ("" without a bias). position: the weight's input position.
        data_axis, output_axis: the contracted axis of the data and the one that the weight makes.
        matrix: the weight as a view [groups, out, in, taps].
        bordered: positions may see fewer taps than others, so that no bias can stand for a constant input.
        scale: factor on the product (Gemm's alpha). bias_scale: factor on the bias (Gemm's beta).
        bias_position: the input that a bias may be added at, -1 where the operator has none.
        restore: brings an array [groups, out, in, taps] back to the weight's layout.
    """

    data: str
    weight: str
    bias: str
    position: int
    data_axis: int
    output_axis: int
    matrix: Array
    bordered: bool
    restore: Callable[[Array], Array]
    scale: float = 1.0
    bias_scale: float = 1.0
    bias_position: int = 2

    @property
    def groups(self) -> int:
        """The number of groups."""
        return int(self.matrix.shape[0])

    @property
    def depthwise(self) -> bool:
        """Whether each channel is mapped to itself."""
        return self.groups > 1 and self.matrix.shape[1:3] == (1, 1)

    def per_group(self, channels: npt.NDArray[Any], outputs: bool) -> npt.NDArray[Any]:
        """Return a vector over channels as [groups, per group]."""
        return np.broadcast_to(channels, (self.groups * self.matrix.shape[1 if outputs else 2],)).reshape(self.groups, -1)


View = Callable[[Node, Context], "Linear | Refusal"]


def linear_of(node: Node, context: Context, view: View) -> Linear | Refusal:
    """Return the node's linear view, made once."""
    key = ("linear", node.index)
    if key not in context.scratch:
        found = view(node, context)
        context.scratch[key] = found if isinstance(found, Refusal) else _checked(found, context)
    result: Linear | Refusal = context.scratch[key]
    return result


def constant_weight(node: Node, context: Context, position: int) -> Array | Refusal:
    """Return the constant weight at an input, or why it cannot serve as one."""
    weight = context.value(node.input(position))
    if weight is None:
        return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
    if weight.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} {weight.dtype}")
    return weight


def _checked(linear: Linear, context: Context) -> Linear | Refusal:
    """Weights that are NaN or Inf would vanish with a dead unit: leave them alone."""
    if not all_finite(linear.matrix) or not _finite_bias(linear, context):
        return Refusal(Reason.NOT_FINITE, linear.weight)
    if linear.bias and context.value(linear.bias) is None:
        return Refusal(Reason.COMPUTED_WEIGHT, linear.bias)
    return linear


def _finite_bias(linear: Linear, context: Context) -> bool:
    bias = context.value(linear.bias) if linear.bias else None
    return bias is None or all_finite(bias)


def all_finite(array: Array) -> bool:
    """Whether no element is NaN or Inf, without a temporary of the array's size in the common case."""
    with np.errstate(all="ignore"):
        total = array.sum(dtype=np.float32 if array.dtype.itemsize <= 4 else None)
        return bool(np.isfinite(total)) or bool(np.isfinite(array).all())


def channel_bounds(context: Context, name: str, axis: int) -> tuple[Floats, Floats]:
    """Return the bounds of each channel of a tensor, whatever the position: vectors of length C, or 1 if alike."""
    fact = context.fact(name)
    others = tuple(other for other in range(fact.lower.ndim) if other != axis)
    return fact.lower.min(axis=others), fact.upper.max(axis=others)


def _signs(linear: Linear) -> tuple[Bools, Bools]:
    """Return where some tap is positive and where some is negative, [groups, out, in]."""
    matrix = linear.matrix
    if matrix.shape[3] == 1:
        return matrix[..., 0] > 0, matrix[..., 0] < 0
    positive, negative = np.empty(matrix.shape[:3], dtype=bool), np.empty(matrix.shape[:3], dtype=bool)
    step = max(1, _CACHED // max(1, matrix.shape[2] * matrix.shape[3]))
    for group in range(matrix.shape[0]):
        for start in range(0, matrix.shape[1], step):
            part = matrix[group, start : start + step]
            most, least = part[..., 0].copy(), part[..., 0].copy()
            for tap in range(1, part.shape[2]):
                np.maximum(most, part[..., tap], out=most)
                np.minimum(least, part[..., tap], out=least)
            np.greater(most, 0, out=positive[group, start : start + step])
            np.less(least, 0, out=negative[group, start : start + step])
    return positive, negative


def nonzero(linear: Linear, node: Node, context: Context) -> Bools:
    """Return which channels each output reads, [groups, out, in]."""
    key = ("nonzero", node.index)
    if key not in context.scratch:
        positive, negative = _signs(linear)
        context.scratch[key] = np.logical_or(positive, negative, out=positive)
    result: Bools = context.scratch[key]
    return result


def bias_of(linear: Linear, context: Context) -> tuple[Floats, Floats]:
    """Return the bounds of the scaled bias as [groups, out]."""
    if not linear.bias:
        zero = np.zeros((linear.groups, linear.matrix.shape[1]))
        return zero, zero
    bias = np.asarray(context.value(linear.bias)).astype(np.float64) * linear.bias_scale
    rows = bias.reshape(-1, bias.shape[-1] if bias.ndim else 1)
    lower, upper = rows.min(axis=0), rows.max(axis=0)
    return linear.per_group(lower, True), linear.per_group(upper, True)


def bounds(node: Node, context: Context, linear: Linear) -> Fact:
    """Bound the outputs: a weight contributes its channel's bounds only where it is not zero."""
    lower, upper = (linear.per_group(bound, False) for bound in channel_bounds(context, linear.data, linear.data_axis))
    if linear.bordered:
        lower, upper = np.minimum(lower, 0.0), np.maximum(upper, 0.0)
    positive, negative = _signs(linear)
    if linear.scale < 0:
        positive, negative = negative, positive
    reads = positive | negative
    context.scratch["nonzero", node.index] = reads
    bias_low, bias_high = bias_of(linear, context)
    varying = ~((lower == upper) & np.isfinite(lower))
    constant = ~(reads & varying[:, None, :]).any(axis=2) & (bias_low == bias_high)
    no_upper, no_lower = np.isposinf(upper)[:, None, :], np.isneginf(lower)[:, None, :]
    open_above = (positive & no_upper).any(axis=2) | (negative & no_lower).any(axis=2)
    open_below = (positive & no_lower).any(axis=2) | (negative & no_upper).any(axis=2)
    low, high = np.full(constant.shape, -np.inf), np.full(constant.shape, np.inf)
    epsilon = float(np.finfo(np.float32).eps) if linear.matrix.dtype.itemsize >= 4 else 2.0**-7
    reading = reads.any(axis=2)
    low[~reading], high[~reading] = bias_low[~reading], bias_high[~reading]
    for group, rows in _chunks(linear, reading & ~(open_above & open_below)):
        slack = epsilon * (linear.matrix.shape[2] * linear.matrix.shape[3] + 2)
        least, most, least_terms, most_terms = _sums(linear, group, rows, lower[group], upper[group])
        least, most = least + bias_low[group, rows], most + bias_high[group, rows]
        least_terms, most_terms = least_terms + np.abs(bias_low[group, rows]), most_terms + np.abs(bias_high[group, rows])
        fixed = constant[group, rows] = constant[group, rows] & ~cancelled(least, least_terms)
        low[group, rows] = np.where(fixed, least, least - slack * least_terms)
        high[group, rows] = np.where(fixed, least, most + slack * most_terms)
    low[open_below], high[open_above] = -np.inf, np.inf
    return _along(linear, context, node, _parted(low, high, constant))


def _parted(lower: Floats, upper: Floats, constant: Bools) -> Fact:
    """Separate bounds that rounding made equal although the value varies."""
    met = (lower == upper) & ~constant
    return interval(np.where(met, np.nextafter(lower, -np.inf), lower), np.where(met, np.nextafter(upper, np.inf), upper))


def _along(linear: Linear, context: Context, node: Node, fact: Fact) -> Fact:
    shape = [1] * context.rank(node.outputs[0])
    shape[linear.output_axis] = -1
    return Fact(fact.lower.reshape(shape), fact.upper.reshape(shape))


def _chunks(linear: Linear, rows: Bools) -> Sequence[tuple[int, npt.NDArray[np.int64]]]:
    """Split the chosen outputs of each group so that a chunk of the weight stays small."""
    per_row = max(1, linear.matrix.shape[2] * linear.matrix.shape[3])
    size = max(1, _CHUNK // per_row)
    found = []
    for group in np.nonzero(rows.any(axis=1))[0]:
        chosen = np.nonzero(rows[group])[0]
        found.extend((int(group), chosen[start : start + size]) for start in range(0, len(chosen), size))
    return found


def _sums(
    linear: Linear, group: int, rows: npt.NDArray[np.int64], lower: Floats, upper: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the least and the most that each row can sum to, and the sums of the magnitudes of their terms."""
    part = linear.matrix[group, rows].astype(np.float64) * linear.scale
    positive, negative = np.maximum(part, 0.0).sum(axis=2), np.minimum(part, 0.0).sum(axis=2)
    low, high = np.where(np.isfinite(lower), lower, 0.0), np.where(np.isfinite(upper), upper, 0.0)
    least, most = positive @ low + negative @ high, positive @ high + negative @ low
    least_terms = positive @ np.abs(low) - negative @ np.abs(high)
    most_terms = positive @ np.abs(high) - negative @ np.abs(low)
    return least, most, least_terms, most_terms


def constants(linear: Linear, context: Context) -> Floats:
    """Return the value of each input channel that is the same constant at all positions, NaN elsewhere; [groups, in]."""
    lower, upper = channel_bounds(context, linear.data, linear.data_axis)
    return linear.per_group(np.where((lower == upper) & np.isfinite(lower), lower, np.nan), False)


def link(node: Node, context: Context, linear: Linear) -> None:
    """Give the outputs classes of their own and note what slicing must respect."""
    if linear.groups > 1:
        context.elements.straighten(linear.data)
    elements = context.elements
    inputs = linear.per_group(channel_ids(context, linear.data, linear.data_axis), False)
    shape = [1] * context.rank(node.outputs[0])
    shape[linear.output_axis] = linear.groups * linear.matrix.shape[1]
    if linear.depthwise:
        elements.ids[node.outputs[0]] = inputs.reshape(shape)
        _tie(context, linear, inputs, inputs)
        return
    ids = elements.ids[node.outputs[0]] = elements.fresh(tuple(shape))
    _tie(context, linear, inputs, ids.reshape(linear.groups, -1))
    if linear.groups > 1:
        elements.constraints.append(Groups(inputs, ids.reshape(linear.groups, -1)))
    else:
        elements.constraints.append(NotEmpty(inputs, ids))
    if linear.bordered:
        values = np.nan_to_num(constants(linear, context))
        read = nonzero(linear, node, context).any(axis=1)
        if (values * read).any():
            elements.constraints.append(Representative(linear.data, inputs, values * read))


def _tie(context: Context, linear: Linear, inputs: Classes, outputs: Classes) -> None:
    """The users of a stored weight that is to be sliced once keep the same of its inputs and outputs."""
    if linear.weight in context.known.tied:
        first = context.scratch.setdefault(("tied", linear.weight, linear.matrix.shape), (inputs, outputs))
        context.elements.union(first[0], inputs)
        context.elements.union(first[1], outputs)


def channel_ids(context: Context, name: str, axis: int) -> npt.NDArray[np.int64]:
    """Return the classes along one axis of a tensor, the elements along all others made to share theirs; [C] or [1]."""
    others = tuple(other for other in range(context.rank(name)) if other != axis)
    merged = context.elements.merge(context.ids(name), others)
    context.elements.ids[name] = merged
    return merged.reshape(-1)


def need(node: Node, context: Context, linear: Linear, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input channel is live if a needed output reads it; one that is constant but not everywhere alike stays."""
    wanted = linear.per_group(outputs[0].reshape(-1), True)
    reads = nonzero(linear, node, context)
    live = reads[0][wanted[0]].any(axis=0) if linear.groups == 1 else (reads & wanted[:, :, None]).any(axis=1)
    shape = [1] * context.rank(linear.data)
    shape[linear.data_axis] = -1
    live = live.reshape(shape)
    uneven = live & np.isnan(constants(linear, context)).reshape(shape)
    demand = Demand(live, uneven & context.fact(linear.data).constant, Reason.CONSTANT_VARIES, node.operator)
    return [demand if name == linear.data else None for name in node.inputs]


def repair(node: Node, context: Context, editor: Editor, linear: Linear) -> None:
    """Slice the weight and the bias; fold what the removed constants contributed.

    Raises:
        FoldOverflow: names the removed constant that contributes most, if the data type cannot hold the sum.
    """
    kept_in = linear.per_group(editor.kept(linear.data, linear.data_axis), False)
    kept_out = linear.per_group(editor.kept(node.outputs[0], linear.output_axis), True)
    values = np.where(kept_in, 0.0, np.nan_to_num(constants(linear, context)))
    try:
        _slice_weight(node, context, editor, linear, kept_out, kept_in, values)
        taken = editor.taken_offset(linear.data)
        if taken is not None:
            values[kept_in] = np.broadcast_to(taken[1], (int(kept_in.sum()),))
        shift = np.zeros(kept_out.shape) if linear.bordered else _shift(linear, values)
        _rebias(node, context, editor, linear, kept_out, shift)
    except FoldOverflow as overflow:
        if not values.any():
            raise
        heaviest = np.abs(linear.matrix.astype(np.float64) * values[:, None, :, None]).max(axis=(1, 3)).argmax()
        raise FoldOverflow(linear.data, (linear.data_axis, int(heaviest))) from overflow


def _slice_weight(
    node: Node, context: Context, editor: Editor, linear: Linear, kept_out: Bools, kept_in: Bools, values: Floats
) -> None:
    if kept_in.all() and kept_out.all():
        return
    weight = _sliced(linear.matrix, kept_out, kept_in)
    if linear.bordered:
        weight = _behind_representative(linear, context, kept_out, kept_in, values, weight)
    permutation = editor.permutation(linear.data)
    if permutation is not None:
        weight = weight[:, :, permutation]
    editor.check_finite(weight, linear.data, linear.matrix.dtype)
    editor.set_constant(node, linear.position, linear.restore(weight.astype(linear.matrix.dtype, copy=False)))
    if linear.groups > 1:
        editor.set_attribute(node, "group", int(kept_out.any(axis=1).sum()))


def _sliced(matrix: Array, kept_out: Bools, kept_in: Bools) -> Array:
    """Return the kept part [groups, out, in, taps]; each kept group keeps equally many of its own."""
    groups = np.nonzero(kept_out.any(axis=1))[0]
    if len(matrix) == 1:
        part = matrix if kept_out.all() else matrix[:, kept_out[0]]
        return part if kept_in.all() else part[:, :, kept_in[0]]
    out, inner = (np.nonzero(kept[groups])[1].reshape(len(groups), -1) for kept in (kept_out, kept_in))
    return matrix[groups[:, None, None], out[:, :, None], inner[:, None, :]]


def _shift(linear: Linear, values: Floats) -> Floats:
    """Return what the removed constants add to each output, [groups, out], in float64."""
    shift = np.zeros(linear.matrix.shape[:2])
    for group in np.nonzero(values.any(axis=1))[0]:
        columns = np.nonzero(values[group])[0]
        part = linear.matrix[group][:, columns].astype(np.float64).sum(axis=2)
        shift[group] = part @ values[group, columns] * linear.scale
    return shift


def _behind_representative(
    linear: Linear, context: Context, kept_out: Bools, kept_in: Bools, values: Floats, weight: Array
) -> Array:
    """Let one kept constant channel of each group stand for the removed ones: W[:, r] += sum W[:, j] c_j / c_r."""
    if not values.any():
        return weight
    all_values = np.nan_to_num(constants(linear, context))
    chosen = choose_representatives(kept_in, all_values)
    weight = weight.astype(np.float64)
    for place, group in enumerate(np.nonzero(kept_out.any(axis=1))[0]):
        columns = np.nonzero(values[group])[0]
        if columns.size and chosen[group] >= 0:
            part = linear.matrix[group][kept_out[group]][:, columns].astype(np.float64)
            ratios = values[group, columns] / all_values[group, chosen[group]]
            target = int(kept_in[group, : chosen[group]].sum())
            weight[place, :, target] += np.einsum("oct,c->ot", part, ratios)
    return weight


def _rebias(
    node: Node, context: Context, editor: Editor, linear: Linear, kept_out: Bools, shift: Floats
) -> None:
    """Slice the bias and add what was folded, in float64, cast once."""
    shift = shift[kept_out]
    if not linear.bias:
        if shift.any():
            editor.offset(node, linear.output_axis, shift, linear.bias_position, linear.matrix.dtype)
        return
    bias = np.asarray(context.value(linear.bias))
    position = node.inputs.index(linear.bias, 2)
    moved = shift / linear.bias_scale if linear.bias_scale else shift
    if linear.bias_scale == 0 and shift.any():
        editor.set_attribute(node, "beta", 1.0)
        bias = np.zeros_like(bias)
    wide = bias.ndim > 0 and bias.shape[-1] > 1
    if not moved.any() and (not wide or kept_out.all()):
        return
    sliced = bias[..., kept_out.ravel()] if wide else bias
    total = sliced.astype(np.float64) + moved if moved.any() else sliced
    if not total.any() and linear.bias not in context.graph.initializers:
        editor.drop_inputs(node, [position])  # computed zeros would become stored ones
        return
    editor.check_finite(total, linear.data, bias.dtype)
    editor.set_constant(node, position, total.astype(bias.dtype, copy=False))


def absorbs(linear: Linear, node: Node, position: int, axis: int) -> bool:
    """A vector on the inputs becomes one on the outputs, where all positions see all taps."""
    return node.inputs[position] == linear.data and axis == linear.data_axis and not linear.bordered


def adopt(node: Node, context: Context, editor: Editor, linear: Linear, axis: int, vector: Floats) -> bool:
    """Add a vector to the outputs through the bias that the node has by now."""
    bias = editor.constant_at(node, linear.bias_position) if linear.bias_position >= 0 else None
    if bias is None or axis != linear.output_axis or not linear.bias_scale or bias.ndim > 1:
        return False
    total = bias.astype(np.float64) + vector / linear.bias_scale
    editor.check_finite(total, node.outputs[0], bias.dtype)
    editor.set_constant(node, linear.bias_position, total.astype(bias.dtype))
    return True


def linear_rule(op: str, view: View, since: int = 1) -> OpRule:
    """Return the rule of a linear operator from the function that views its node."""

    def viewed(node: Node, context: Context) -> Linear:
        found = linear_of(node, context, view)
        assert isinstance(found, Linear)
        return found

    def applies(node: Node, context: Context) -> Refusal | None:
        found = linear_of(node, context, view)
        return found if isinstance(found, Refusal) else None

    return OpRule(
        op,
        since=since,
        applies=applies,
        forward=lambda node, context: [bounds(node, context, viewed(node, context))],
        link=lambda node, context: link(node, context, viewed(node, context)),
        need=lambda node, context, outputs: need(node, context, viewed(node, context), outputs),
        repair=lambda node, context, editor: repair(node, context, editor, viewed(node, context)),
        absorbs=lambda node, context, position, axis: absorbs(viewed(node, context), node, position, axis),
        adopts=lambda node, context, editor, axis, vector: adopt(
            node, context, editor, viewed(node, context), axis, vector
        ),
        order="reads",
        weights=viewed,
    )
