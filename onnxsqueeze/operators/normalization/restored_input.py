"""Where a normalisation's output is wanted whole, what left its input comes back in front of it.

A narrow stream may end in a normalisation that is a graph output, or whose readers need every channel of it. The
operator then stays what it is, over an input in which each removed channel is a copy of one that stayed, moved to its
own constant.
"""

from __future__ import annotations

import numpy as np

from onnxsqueeze.abstract.compact import Floats
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.normalization.channels import axis_of, placed
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.rewriter import Rewriter


def widens(node: Node, context: Context) -> bool:
    """Whether the output is wanted whole, so that it has classes of its own."""
    output = node.outputs[0]
    return output in context.graph.outputs or output in context.learned.whole


def widen(node: Node, context: Context, rewriter: Rewriter, constants: Floats) -> None:
    """Bring the removed constants back in front of a node, along the axis that it normalises."""
    axis = axis_of(node, context)
    kept = rewriter.positions(node.inputs[0], axis)
    standing = np.nonzero(kept & ~np.isnan(constants))[0][0]
    places = (np.cumsum(kept) - 1)[np.where(kept, np.arange(len(kept)), standing)]
    rewriter.insert_before(node, 0, "Gather", [None, places], axis=axis)
    missing = np.where(kept, 0.0, constants - constants[standing])
    if missing.any():
        summand = placed(node, context, missing).astype(rewriter.dtype(node.inputs[0]))
        rewriter.insert_before(node, 0, "Add", [None, summand])
