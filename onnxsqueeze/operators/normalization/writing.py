"""What the written forms of several normalisations have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.rewriter import Rewriter

_MEAN_AXES_AS_INPUT = 18  # the opset in which the axes of ReduceMean and ReduceL2 became an input


def compute_mean(rewriter: Rewriter, node: Node, data: Any, axis: int) -> Any:
    """Average over an axis, which stays with length 1, in front of a node; return the tensor."""
    if rewriter.opset < _MEAN_AXES_AS_INPUT:
        return rewriter.compute(node, "ReduceMean", [data], axes=[axis], keepdims=1)
    return rewriter.compute(node, "ReduceMean", [data, np.array([axis], dtype=np.int64)], keepdims=1)


def compute_norm(rewriter: Rewriter, node: Node, data: Any, axes: Sequence[int]) -> Any:
    """Take the Euclidean norm over axes, which stay with length 1, in front of a node; return the tensor."""
    if rewriter.opset < _MEAN_AXES_AS_INPUT:
        return rewriter.compute(node, "ReduceL2", [data], axes=list(axes), keepdims=1)
    return rewriter.compute(node, "ReduceL2", [data, np.array(axes, dtype=np.int64)], keepdims=1)
