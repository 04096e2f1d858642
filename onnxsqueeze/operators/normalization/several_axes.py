"""What norms over several axes have in common: parameters with an element for each place that they normalise."""

from __future__ import annotations

import numpy as np

from onnxsqueeze.abstract.compact import Array, aligned, all_finite
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Refusal


def parameters_refusal(node: Node, context: Context, most_axes: int) -> Refusal | None:
    """Refuse scales and biases that are no finite constants of at most so many axes."""
    for name in filter(None, node.inputs[1:3]):
        array = context.value(name)
        if array is None:
            return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
        if array.ndim > most_axes:
            return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with parameters of another rank")
        if not all_finite(array):
            return Refusal(Reason.NOT_FINITE, name)
    return None


def whole_parameter(node: Node, context: Context, position: int, default: float) -> Array:
    """Return scale (1) or bias (2) with all axes of the input; ``default`` where it is absent."""
    array = context.value(node.input(position)) if node.input(position) else None
    stored: Array = np.asarray(default) if array is None else array
    return aligned(stored, context.rank(node.inputs[0]))
