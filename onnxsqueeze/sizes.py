"""Requested shapes: the entries of a target whose axes changed are rewritten, computed targets included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxsqueeze.graph import Node
from onnxsqueeze.rule import Context

if TYPE_CHECKING:
    from onnxsqueeze.editor import Editor


def patch_sizes(node: Node, position: int, context: Context, editor: Editor) -> None:
    """Rewrite the entries of a requested shape whose axes changed, computed shapes included."""
    output = node.outputs[0]
    lengths = [editor.new_length(output, axis) for axis in range(context.rank(output))]
    if all(length is None for length in lengths):
        return
    wanted = np.array([0 if length is None else length for length in lengths], dtype=np.int64)
    changed = np.array([length is not None for length in lengths])
    target = context.value(node.inputs[position])
    if target is not None:
        offset = len(lengths) - target.size  # Expand aligns a shorter target at the end
        editor.set_constant(node, position, np.where(changed[offset:], wanted[offset:], target).astype(np.int64))
        return
    editor.insert_before(node, position, "Where", [changed, wanted, None])
