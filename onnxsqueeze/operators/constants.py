"""Constant, ConstantOfShape, Shape, Size, Range: where sizes and constants come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx.numpy_helper

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.interval import Interval, bounded
from onnxsqueeze.abstract.symbolic import Shape, Symbolic, as_values, known, product
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, OpRule, Refusal
from onnxsqueeze.rules.queries import held_sizes, read_beside
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.shapes.computed_shapes import repair_requested_shape


def _constant(node: Node, inputs: Sequence[Array]) -> Sequence[Any]:
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, value in node.attributes.items():
        if name == "value" and value.data_type not in _PACKED:
            return [onnx.numpy_helper.to_array(value)]
        if name in kinds:
            return [np.array(value, dtype=kinds[name])]
    return [None]


_PACKED = {getattr(onnx.TensorProto, name, -1) for name in ("STRING", "INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")}


def _fill(node: Node) -> Array:
    value = node.attributes.get("value")
    return np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)


def _filled(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    return [np.full(inputs[0].astype(np.int64), _fill(node).ravel()[0])]


def _filled_interval(node: Node, context: Context) -> Sequence[Interval]:
    value = float(_fill(node).astype(np.float64).ravel()[0])
    return [bounded(value, value, context.rank(node.outputs[0]))]


def _link_filled(node: Node, context: Context) -> None:
    """All have one class, unless each lies beside a channel that may leave, or is one: zeros that fill others up."""
    output, lengths = node.outputs[0], [1] * context.rank(node.outputs[0])
    if read_beside(context, output, (Trait.BESIDE, Trait.JOINS)):
        lengths = [1 if isinstance(size, Symbolic) else size for size in context.shape(output)]
    apart = np.prod(lengths, dtype=np.float64) <= _MOST_APART
    context.elements.ids[output] = context.elements.fresh(tuple(lengths) if apart else (1,) * len(lengths))


_MOST_APART = 1 << 16


def _filled_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    sizes = context.sizes(node.inputs[0])
    return [None if sizes is None else tuple(_size(entry) for entry in sizes)]


def _size(entry: Any) -> Any:
    return int(entry) if known(entry) else entry


def _shape_value(node: Node, shape: Shape) -> Array:
    start = node.attributes.get("start", 0)
    return as_values(list(shape[start : node.attributes.get("end")]))


def _infer_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    """Also records the value: sizes are known here and nowhere else."""
    if node.inputs[0] in context.shapes:
        context.values[node.outputs[0]] = _shape_value(node, context.shape(node.inputs[0]))
    return [None]


def _infer_size(node: Node, context: Context) -> Sequence[Shape | None]:
    if node.inputs[0] in context.shapes:
        context.values[node.outputs[0]] = as_values([product(context.shape(node.inputs[0]))]).reshape(())
    return [None]


def _link_shape(node: Node, context: Context) -> None:
    """The values do not matter, but a tensor that vanished has no shape to read: where sizes are dynamic, one stays."""
    elements, output = context.elements, node.outputs[0]
    elements.ids[output] = elements.fresh((1,))
    if context.is_activation(node.inputs[0]):
        elements.constraints.append(NotEmpty(context.ids(node.inputs[0]), elements.ids[output]))


def _shape_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """The new lengths are what most readers want; where not, the entries that changed are set back."""
    if node.index in rewriter.shapes.frozen:
        name = node.inputs[0]
        before = _shape_value(node, context.shape(name))
        changed = before != _shape_value(node, rewriter.shapes.shape(name))
        rewriter.insert_after(node, "Where", [~changed, None, np.where(changed, before, 0).astype(np.int64)])


def _known_size(node: Node, context: Context) -> Refusal | None:
    return None if context.value(node.outputs[0]) is not None else Refusal(Reason.UNKNOWN_SHAPE, node.op)


def _range(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    start, limit, delta = (array.ravel()[0] for array in inputs)
    return [np.arange(start, limit, delta, dtype=inputs[0].dtype)]


def _range_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    """Counting from 0 by ones up to a size makes that many numbers."""
    start, limit, delta = (context.sizes(name) for name in node.inputs)
    if limit is None or limit.dtype != object or not all(_is_scalar(array, n) for array, n in ((start, 0), (delta, 1))):
        return [None]
    size = limit.ravel()[0]
    return [None if size.floating else (size,)]


def _is_scalar(array: Array | None, number: int) -> bool:
    return array is not None and array.dtype.kind in "if" and array.size == 1 and array.ravel()[0] == number


def _only_sizes(node: Node, context: Context, position: int, axis: int) -> bool:
    """Whatever is done to values, sizes do not see it."""
    return True


register(
    OpRule("Constant", evaluate=_constant),
    OpRule(
        "ConstantOfShape",
        evaluate=_filled,
        infer=_filled_shape,
        forward=_filled_interval,
        link=_link_filled,
        need=lambda node, context, outputs: held_sizes(node),
        repair=repair_requested_shape,  # the value broadcasts, so only the requested lengths change
        shape_input=0,
        sliced_from=lambda node, context, kept: [None],
    ),
    OpRule(
        "Shape",
        infer=_infer_shape,
        link=_link_shape,
        need=lambda node, context, outputs: [None],
        repair=_shape_repair,
        absorbs=_only_sizes,
        reconstructs=_only_sizes,
        traits=frozenset({Trait.READS_SHAPE}),
    ),
    OpRule(
        "Size",
        infer=_infer_size,
        applies=_known_size,
        need=lambda node, context, outputs: [None],
        absorbs=_only_sizes,
        reconstructs=_only_sizes,
        traits=frozenset({Trait.READS_SHAPE}),
    ),
    OpRule("Range", evaluate=_range, infer=_range_shape),
)
