"""The cost policy: where keeping a few more original channels makes the result faster. It may un-remove, never invent."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsqueeze.analysis import Analysis
from onnxsqueeze.errors import UsageError
from onnxsqueeze.regularity import Constraint, RoundUp

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def rounding(analysis: Analysis, round_to: str | int) -> Sequence[Constraint]:
    """Return the constraints that round channel counts up.

    Args:
        round_to: a multiple for every layer, or "auto": what onnxruntime's convolutions like (see docs/decisions).

    Raises:
        UsageError: for anything but "auto" or a positive integer.
    """
    automatic = round_to == "auto"
    try:
        multiple = 4 if automatic else int(round_to)
    except ValueError:
        multiple = 0
    if multiple < 1:
        raise UsageError(f"--round-to {round_to}: give `auto` or a positive number of channels")
    if multiple == 1:
        return []
    found: dict[bytes, Constraint] = {}
    for node in analysis.graph.nodes:
        rule = analysis.rules[node.index]
        if rule.weights is None or (automatic and node.op not in _CONVOLUTIONS):
            continue
        linear = rule.weights(node, analysis.context)
        for name, axis in ((linear.data, linear.data_axis), (node.outputs[0], linear.output_axis)):
            if analysis.context.is_activation(name) and analysis.context.ids(name).shape[axis] > 1:
                ids = analysis.context.ids(name)
                found[analysis.labels[ids].tobytes()] = RoundUp(ids, multiple)
    return list(found.values())
