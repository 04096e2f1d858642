"""The rule of a norm over an axis and all behind it: by which axes these are."""

from __future__ import annotations

from dataclasses import replace

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.normalization.image_layer_normalization import covers_images, over_images
from onnxsqueeze.operators.normalization.space_normalization import covers_space, over_space
from onnxsqueeze.rules.contract import Context, OpRule


def by_axes(last: OpRule, centred: bool) -> OpRule:
    """Return the rule of a norm over the last axis, extended to several.

    Args:
        last: what holds over the last axis. centred: whether the norm subtracts a mean.
    """
    images, space = over_images(last.op, centred), over_space(last.op, centred)

    def dispatch(node: Node, context: Context) -> OpRule:
        if covers_images(node, context):
            return images
        return space if covers_space(node, context) else last

    return replace(last, dispatch=dispatch, variants=(last, images, space))
