"""One view of Conv, ConvTranspose, Gemm and MatMul: a constant weight as [groups, out, in, taps].

``out`` and ``in`` are counted per group. One view lets one piece of code bound, trace, slice and fold all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.fact import Floats
from onnxsqueeze.graph import Node
from onnxsqueeze.reason import Reason
from onnxsqueeze.rule import Array, Context, Refusal


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
        idle_bias: whether zeros that the graph computes stand there, as exporters write them; they count as no bias.
        lookup: whether rows are read by their numbers, so that nothing is multiplied.
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
    idle_bias: bool = False
    lookup: bool = False

    @property
    def groups(self) -> int:
        """The number of groups."""
        return int(self.matrix.shape[0])

    @property
    def depthwise(self) -> bool:
        """Whether each channel is mapped to itself."""
        return self.groups > 1 and self.matrix.shape[1:3] == (1, 1)

    @property
    def mixable(self) -> bool:
        """Whether one matrix reads all channels, the same at all positions."""
        return self.groups == 1 and not self.bordered

    def stored_axis(self, place: int) -> int:
        """Return the axis of the weight as it is stored along which an axis of ``matrix`` lies (of one group)."""
        shapes = [(1, 1 + (place == 1) * more, 1 + (place == 2) * more, self.matrix.shape[3]) for more in (0, 1)]
        before, after = (self.restore(np.empty(shape, dtype=bool)).shape for shape in shapes)
        return next(axis for axis, (short, long) in enumerate(zip(before, after, strict=True)) if short != long)

    def per_group(self, channels: npt.NDArray[Any], outputs: bool) -> npt.NDArray[Any]:
        """Return a vector over channels as [groups, per group]."""
        return np.broadcast_to(channels, (self.groups * self.matrix.shape[1 if outputs else 2],)).reshape(
            self.groups, -1
        )


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
    if linear.bias and linear.bias not in context.graph.initializers and not np.any(context.value(linear.bias)):
        return replace(linear, bias="", idle_bias=True)
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


def constants(linear: Linear, context: Context) -> Floats:
    """Return the value of each input channel that is one constant at all positions, NaN elsewhere; [groups, in]."""
    lower, upper = channel_bounds(context, linear.data, linear.data_axis)
    return linear.per_group(np.where((lower == upper) & np.isfinite(lower), lower, np.nan), False)
