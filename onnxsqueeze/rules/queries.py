"""Questions about the surroundings of a node that several rules ask."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import TensorProto

from onnxsqueeze.abstract.compact import Floats
from onnxsqueeze.abstract.symbolic import Symbolic
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand
from onnxsqueeze.rules.memo import per_tensor
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait

_WHOLE = (TensorProto.INT32, TensorProto.INT64)


def absorbed_by_readers(context: Context, name: str, axis: int, deferred: bool = False) -> bool:
    """Whether every reader of a tensor, and no graph output, can take up what should be done to it along an axis.

    That is a vector to be added, or with ``deferred`` a `Reconstruction`. Who only carries the axis on leaves it to its
    readers.
    """
    return _absorbed(context, name, axis, deferred)


@per_tensor
def _absorbed(context: Context, name: str, axis: int, deferred: bool) -> bool:
    if name in context.graph.outputs:
        return False
    for reader, position in context.graph.readers.get(name, ()):
        rule = context.rules[reader.index]
        takes = rule.reconstructs if deferred else rule.absorbs
        if position >= 0 and takes is not None and takes(reader, context, position, axis):
            continue
        onward = None if position < 0 or rule.carries is None else rule.carries(reader, context, position, axis)
        if onward is None:
            return False
        if not all(_absorbed(context, output, onward, deferred) for output in reader.outputs if output):
            return False
    return True


def held_sizes(node: Node) -> list[Demand | None]:
    """Return the demand of an operator that reads sizes: of a computed shape nothing may leave."""
    everything = np.full((), True)
    return [Demand(everything, everything, Reason.CONSTANT_READ, f"sizes of {node.op}") for _ in node.inputs]


def constant_vector(context: Context, name: str) -> Floats | None:
    """Return a constant floating-point tensor flattened to float64, else None."""
    array = context.value(name)
    return None if array is None else array.astype(np.float64).ravel()


def counted_by(context: Context, name: str) -> Node | None:
    """Return the node that makes whole numbers of a tensor, if nothing else reads that.

    So ConvInteger and MatMulInteger are lowered: what stands between a layer and that node is theirs.
    """
    readers = context.graph.readers.get(name, ())
    if len(readers) != 1 or name in context.graph.outputs or readers[0][1] != 0:
        return None
    reader = readers[0][0]
    whole = context.dtypes.get(reader.outputs[0]) in _WHOLE
    return reader if whole and Trait.COPIES in context.rules[reader.index].traits else None


def known_axis(context: Context, name: str, axis: int) -> int | None:
    """Return an axis's length, None where it is known only at run time."""
    size = context.shape(name)[axis]
    return None if isinstance(size, Symbolic) else size


def told_apart(context: Context, name: str, axis: int) -> bool:
    """Whether anything is known of an activation, or may leave of it, that differs along an axis."""
    return bool(max(context.ids(name).shape[axis], context.interval(name).lower.shape[axis]) > 1)


def read_beside(context: Context, name: str, traits: Collection[Trait] = (Trait.BESIDE,)) -> bool:
    """Whether a tensor is only read by operators with such a trait, whose channels are each made of one of its own."""
    readers = context.graph.readers.get(name, ())
    beside = all(position >= 0 and not rule_for(reader).traits.isdisjoint(traits) for reader, position in readers)
    return bool(readers) and beside and name not in context.graph.outputs
