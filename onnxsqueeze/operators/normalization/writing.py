"""What the written forms of several normalisations have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.rewriter import Rewriter

_AXES_AS_INPUT = 18  # the opset in which the axes of ReduceMean and ReduceL2 became an input


def compute_mean(rewriter: Rewriter, node: Node, data: Any, *axes: int) -> Any:
    """Average over axes, which stay with length 1, in front of a node; return the tensor."""
    return _reduced(rewriter, node, "ReduceMean", data, axes)


def compute_norm(rewriter: Rewriter, node: Node, data: Any, axes: Sequence[int]) -> Any:
    """Take the Euclidean norm over axes, which stay with length 1, in front of a node; return the tensor."""
    return _reduced(rewriter, node, "ReduceL2", data, axes)


def _reduced(rewriter: Rewriter, node: Node, op: str, data: Any, axes: Sequence[int]) -> Any:
    if rewriter.opset < _AXES_AS_INPUT:
        return rewriter.compute(node, op, [data], axes=list(axes), keepdims=1)
    return rewriter.compute(node, op, [data, np.array(axes, dtype=np.int64)], keepdims=1)
