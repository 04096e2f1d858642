"""Variants of a case: all inputs but one become initializers, and initializers get zeroed slices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .cases import Case, Run, fed_inputs

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGERS = (TensorProto.INT32, TensorProto.INT64)
FREE_INITIALIZERS = 4  # the IR version since which an initializer need not be a graph input as well
LARGEST = 30_000_000
"""Weight elements up to which a light model's weights are drawn: VGG, AlexNet and ZFNet would take most of the time."""


@dataclass(frozen=True)
class Mask:
    """Zeroed slices: half of the indices along an axis, in every initializer of at least some rank."""

    axis: int
    lowest_rank: int

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a masked copy; axes of one length lose the same indices, so that biases go with their weights."""
        masked: npt.NDArray[Any] = array.copy()
        if array.ndim >= self.lowest_rank:
            size = array.shape[self.axis]
            zeroed = np.random.default_rng(size).permutation(size)[: size // 2]
            np.moveaxis(masked, self.axis, 0)[zeroed] = 0
        return masked


RTOL = 1e-5
"""How near a variant must come to its own original: rounding alone parts them, where 1e-3 parts two implementations."""

SHIPPED, FIXED, ROWS, COLUMNS, CONSTANTS = VARIANTS = ("shipped", "fixed", "rows", "columns", "constants")
MASKS = {ROWS: Mask(0, 1), COLUMNS: Mask(1, 2), CONSTANTS: Mask(0, 2)}
"""Whole units; inputs of units; the weights of units without their biases, which leaves constants."""


def variant_of(case: Case, variant: str) -> Case | None:
    """Return a variant, with no expected outputs yet but as shipped; None where it is no other than a former one.

    Of the inputs stays the first; but where that is one of integers (indices, token ids), then the first of floats.
    """
    if variant == SHIPPED:
        return case
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feeds = dict(case.runs[0].feeds)
    changed = _fix_inputs(model, feeds)
    if variant != FIXED:
        vectors = any(len(tensor.dims) == 1 and tensor.dims[0] > 1 for tensor in _weights(model.graph))
        changed = _mask(model.graph, MASKS[variant]) and (variant != CONSTANTS or vectors)
    return replace(case, model=model, runs=[Run(feeds, [])], rtol=RTOL) if changed else None


def _fix_inputs(model: ModelProto, feeds: dict[str, Any]) -> bool:
    """Turn inputs into initializers, and take them from what is fed; say whether there were any."""
    graph, listed = model.graph, model.ir_version < FREE_INITIALIZERS
    found = [_as_tensor(info, feeds) for info in _others(fed_inputs(model))]
    fixed = [tensor for tensor in found if tensor is not None]
    names = {tensor.name for tensor in fixed}
    for name in names:
        del feeds[name]
    if not listed:
        kept = [info for info in graph.input if info.name not in names]
        del graph.input[:]
        graph.input.extend(kept)
    drawn = _draw_weights(graph)
    if listed:
        graph.input.extend(helper.make_tensor_value_info(new.name, new.data_type, new.dims) for new in drawn)
    graph.initializer.extend([*fixed, *drawn])
    return bool(fixed or drawn)


def _others(inputs: list[ValueInfoProto]) -> list[ValueInfoProto]:
    """Return all inputs but the one that stays."""
    kinds = [info.type.tensor_type.elem_type for info in inputs]
    first_float = next((place for place, kind in enumerate(kinds) if kind in FLOATS), 0)
    stays = first_float if kinds and kinds[0] in INTEGERS else 0
    return [info for place, info in enumerate(inputs) if place != stays]


def _as_tensor(info: ValueInfoProto, feeds: dict[str, Any]) -> TensorProto | None:
    """Return an input's test value as an initializer; sequences and optionals cannot be one."""
    value = feeds.get(info.name)
    if not info.type.HasField("tensor_type") or not isinstance(value, np.ndarray):
        return None
    return numpy_helper.from_array(value, info.name)


def _mask(graph: GraphProto, mask: Mask) -> bool:
    """Mask the graph's initializers; say whether any changed."""
    changed = False
    for tensor in _weights(graph):
        array = numpy_helper.to_array(tensor)
        masked = mask.apply(array)
        if masked.tobytes() != array.tobytes():
            tensor.CopyFrom(numpy_helper.from_array(masked, tensor.name))
            changed = True
    return changed


def _weights(graph: GraphProto) -> list[TensorProto]:
    """Return the initializers of floats, but not those that are sizes, of which zero would be an error."""
    sizes = {name for node in graph.node if node.op_type in ("Resize", "Upsample") for name in node.input[1:]}
    return [tensor for tensor in graph.initializer if tensor.data_type in FLOATS and tensor.name not in sizes]


def _draw_weights(graph: GraphProto) -> list[TensorProto]:
    """Replace the ConstantOfShape nodes that stand for a light model's weights by random initializers."""
    nodes, shapes = _weight_nodes(graph)
    if not nodes or sum(int(shape.prod()) for shape in shapes) > LARGEST:
        return []
    for node in nodes:
        graph.node.remove(node)
    _end_before_softmax(graph)
    random = np.random.default_rng(0)
    return [_weight(node.output[0], shape, random) for node, shape in zip(nodes, shapes, strict=True)]


def _end_before_softmax(graph: GraphProto) -> None:
    """Let the logits be the output: of random weights they are so far apart that the largest would be all one sees."""
    output = graph.output[0].name
    softmax = next((node for node in graph.node if node.op_type == "Softmax" and node.output[0] == output), None)
    if softmax is not None:
        graph.node.remove(softmax)
        writer = next(node for node in graph.node if softmax.input[0] in node.output)
        writer.output[0] = output


def _weight_nodes(graph: GraphProto) -> tuple[list[NodeProto], list[npt.NDArray[np.int64]]]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "ConstantOfShape" and node.input[0] in stored]
    return nodes, [numpy_helper.to_array(stored[node.input[0]]) for node in nodes]


def _weight(name: str, shape: Iterable[int], random: np.random.Generator) -> TensorProto:
    """Draw a weight that keeps the scale of what passes; vectors are positive, since variances are among them."""
    outputs, *inputs = dims = tuple(shape)
    if inputs:
        values = random.standard_normal(dims) * np.sqrt(2 / np.prod(inputs))
    else:
        values = random.uniform(0.5, 1.5, outputs)
    return numpy_helper.from_array(values.astype(np.float32), name)
