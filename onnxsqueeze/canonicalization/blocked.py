"""Convolutions in onnxruntime's own layout, said in the standard's.

At its highest level onnxruntime saves networks in which the channels of an image lie in blocks, as many as one of the
machine's vectors holds. Such a file runs on machines of that kind alone. Tensors are in blocks from ``ReorderInput`` or
a first convolution on to ``ReorderOutput``; channels that fill up the last block are zeros there, or nobody reads them.
They become channels like others, which then leave. All of a network is said plainly, or nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.canonicalization.inlining import Names
from onnxsqueeze.canonicalization.rebuild import _with_nodes
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Graph, Node
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except, fixed_size
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait

DOMAIN = "com.microsoft.nchwc"
_FUSED_DOMAIN = "com.microsoft"
_OLDEST = 11  # the opset since which Pad, Slice, Clip and Resize read what they are told as inputs
_RANK = 4
_QUIET = 4  # onnxruntime's log severity


def without_blocks(model: Model) -> Model:
    """Return a model whose channels lie in no blocks; the argument if none do, or not all of it can be said plainly."""
    if all(node.domain != DOMAIN for node in model.skeleton.graph.node):
        return model
    graph = Graph(model)
    block = _block_size()
    if block is None or graph.opsets.get("", 0) < _OLDEST:
        return model
    try:
        plain = _Plain(graph, block, {})
        lengths = _channels(plain.model(), plain.entered)
        return (
            _Plain(graph, block, lengths).model()
            if any(length % block for length in lengths.values())
            else plain.model()
        )
    except _NotPlain:
        return model


class _NotPlain(Exception):
    """Something that the standard cannot say, or that is not known."""


class _Plain:
    """The nodes of a graph said plainly.

    Attributes:
        entered: by what enters the blocks, the axis that its channels are on.
    """

    def __init__(self, graph: Graph, block: int, lengths: dict[str, int]) -> None:
        """Say all nodes plainly; ``lengths`` are those that enter, where they are known to be other than whole blocks.

        Raises:
            _NotPlain: where that cannot be done.
        """
        self._graph, self._block, self._lengths = graph, block, lengths
        self._names = Names(graph.proto, graph.model.initializers)
        self._channels: dict[str, int | None] = {}
        self._new: dict[str, Initializer] = {}
        self.entered: dict[str, int] = {}
        self._nodes = [made for node in graph.nodes for made in self._said(node)]
        if any(name in self._channels for name in graph.outputs):
            raise _NotPlain

    def model(self) -> Model:
        """Return the model."""
        before = self._graph.model
        skeleton = _with_nodes(before.skeleton, self._nodes)
        if all(entry.domain != _FUSED_DOMAIN for entry in skeleton.opset_import):
            skeleton.opset_import.append(helper.make_opsetid(_FUSED_DOMAIN, 1))
        read = {name for names in Graph.read_names(skeleton.graph) for name in names} | set(self._graph.outputs)
        left = {
            name: value
            for name, value in before.initializers.items()
            if name in read or name not in self._graph.initializers
        }
        return replace(before, skeleton=skeleton, initializers=left | self._new)

    def _said(self, node: Node) -> Iterator[onnx.NodeProto]:
        if node.domain == DOMAIN:
            yield from OPERATORS[node.op](self, node) if node.op in OPERATORS else self._unsaid()
            return
        blocked = [name for name in (*node.inputs, *node.captured) if name in self._channels]
        if blocked:
            self._pass(node)
        yield node.proto

    def _unsaid(self) -> Iterator[onnx.NodeProto]:
        raise _NotPlain

    def _pass(self, node: Node) -> None:
        """Let a node that does the same in either layout go on with blocks."""
        traits, others = rule_for(node).traits, [name for name in node.inputs if name and name not in self._channels]
        joins = Trait.JOINS in traits and node.attributes.get("axis") == 1 and not others
        numbers = all(name in self._graph.initializers and self._graph.initializers[name].size == 1 for name in others)
        if node.captured or not (joins or (Trait.POINTWISE in traits and numbers)):
            raise _NotPlain
        counts = [self._channels[name] for name in node.inputs if name in self._channels]
        known = None not in counts
        for name in node.outputs:
            if name and joins:
                self._channels[name] = sum(count or 0 for count in counts) if known else None
            elif name:
                self._channels[name] = counts[0]

    # -- the operators ------------------------------------------------------------------------------------------------

    def _reorder_input(self, node: Node) -> Iterator[onnx.NodeProto]:
        """The channels that fill up the last block are zeros; a convolution of all of them can do without."""
        name, output = node.inputs[0], node.outputs[0]
        last = bool(node.attributes.get("channels_last", 0))
        self.entered[name] = _RANK - 1 if last else 1
        filled = not all(_sums(reader) and place == 0 for reader, place in self._graph.readers.get(output, ()))
        missing = -self._lengths.get(name, 0) % self._block if filled else 0
        if last:
            plain = output if not missing else self._names.new(f"{output}.plain")
            yield helper.make_node("Transpose", [name], [plain], node.label, perm=[0, 3, 1, 2])
            name = plain
        if missing:
            pads = self._constant(f"{output}.pads", np.array([0, 0, 0, 0, 0, missing, 0, 0]))
            yield helper.make_node("Pad", [name, pads], [output], f"{node.label}.Pad")
        elif not last:
            yield helper.make_node("Identity", [name], [output], node.label)
        self._channels[output] = self._lengths[name] + missing if name in self._lengths else None

    def _reorder_output(self, node: Node) -> Iterator[onnx.NodeProto]:
        """Channels that filled up the last block are left out."""
        name, output = node.inputs[0], node.outputs[0]
        if name not in self._channels:
            raise _NotPlain
        count, last = int(node.attributes["channels"]), bool(node.attributes.get("channels_last", 0))
        if self._channels[name] != count:
            bounds = [
                self._constant(f"{output}.{what}", np.array([at]))
                for what, at in (("from", 0), ("to", count), ("axis", 1))
            ]
            plain = self._names.new(f"{output}.plain") if last else output
            yield helper.make_node("Slice", [name, *bounds], [plain], f"{node.label}.Slice")
            name = plain
        if last:
            yield helper.make_node("Transpose", [name], [output], node.label, perm=[0, 2, 3, 1])
        elif name != output:
            yield helper.make_node("Identity", [name], [output], node.label)

    def _conv(self, node: Node) -> Iterator[onnx.NodeProto]:
        """A convolution, perhaps with a summand and an activation."""
        weight = self._graph.initializers.get(node.inputs[1])
        if weight is None or len(weight.shape) != _RANK or weight.header.data_type != TensorProto.FLOAT:
            raise _NotPlain
        if node.input(3) and node.inputs[3] not in self._channels:
            raise _NotPlain
        groups = int(node.attributes.get("group", 1))
        alone = node.inputs[0] not in self._channels or weight.shape[:2] == (groups, 1)
        value = _unblocked(weight.array, self._block, whole=not alone)
        read = self._channels.get(node.inputs[0])
        if _sums(node) and read is not None:
            value = np.ascontiguousarray(value[:, :read])
        plain = self._constant(f"{node.outputs[0]}.weight", value)
        fused = bool(node.input(3)) or "activation" in node.attributes
        made = helper.make_node(
            "FusedConv" if fused else "Conv",
            [node.inputs[0], plain, *node.inputs[2:]],
            list(node.outputs),
            node.label,
            domain=_FUSED_DOMAIN if fused else ONNX_DOMAIN,
        )
        made.attribute.extend(node.proto.attribute)
        self._channels[node.outputs[0]] = weight.shape[0]
        yield made

    def _pool(self, node: Node) -> Iterator[onnx.NodeProto]:
        if node.inputs[0] not in self._channels or any(node.outputs[1:]):
            raise _NotPlain
        made = helper.make_node(node.op, list(node.inputs), list(node.outputs), node.label)
        made.attribute.extend(entry for entry in node.proto.attribute if not _is_default(entry))
        self._channels[node.outputs[0]] = self._channels[node.inputs[0]]
        yield made

    def _upsample(self, node: Node) -> Iterator[onnx.NodeProto]:
        if node.inputs[0] not in self._channels:
            raise _NotPlain
        output, given = node.outputs[0], node.attributes
        none = self._constant(f"{output}.roi", np.zeros(0, np.float32))
        scales = self._constant(f"{output}.scales", np.array(given["scales"], np.float32))
        how: dict[str, Any] = {"mode": given.get("mode", "nearest")}
        how["coordinate_transformation_mode"] = given.get("coordinate_transformation_mode", "asymmetric")
        if how["mode"] == "nearest":
            how["nearest_mode"] = "floor"
        self._channels[output] = self._channels[node.inputs[0]]
        yield helper.make_node("Resize", [node.inputs[0], none, scales], [output], node.label, **how)

    # -- names --------------------------------------------------------------------------------------------------------

    def _constant(self, name: str, value: Array) -> str:
        name = self._names.new(name)
        self._new[name] = Initializer.from_array(name, value)
        return name


OPERATORS: Mapping[str, Callable[[_Plain, Node], Iterator[onnx.NodeProto]]] = {
    "ReorderInput": _Plain._reorder_input,
    "ReorderOutput": _Plain._reorder_output,
    "Conv": _Plain._conv,
    "MaxPool": _Plain._pool,
    "AveragePool": _Plain._pool,
    "GlobalMaxPool": _Plain._pool,
    "GlobalAveragePool": _Plain._pool,
    "Upsample": _Plain._upsample,
}
"""By operator, how it is said plainly."""


def _sums(node: Node) -> bool:
    """Whether a node is a convolution that adds up all channels of its input."""
    return (node.domain, node.op) == (DOMAIN, "Conv") and int(node.attributes.get("group", 1)) == 1


def _is_default(attribute: onnx.AttributeProto) -> bool:
    """Whether a pool of an older opset, which has no such attribute, does the same."""
    if attribute.name in ("ceil_mode", "storage_order", "count_include_pad"):
        return attribute.i == 0
    return attribute.name == "dilations" and set(attribute.ints) <= {1}


def _unblocked(weight: Array, block: int, whole: bool) -> Array:
    """Return a weight [O, I, H, W] that lies in memory as [O / B, I / B, H, W, B of I, B of O].

    Without ``whole`` it lies as [O / B, I, H, W, B of O].
    """
    rows, columns, height, width = weight.shape
    if rows % block or (whole and columns % block):
        raise _NotPlain
    if not whole:
        parts = weight.reshape(rows // block, columns, height, width, block)
        return np.ascontiguousarray(parts.transpose(0, 4, 1, 2, 3).reshape(weight.shape))
    parts = weight.reshape(rows // block, columns // block, height, width, block, block)
    return np.ascontiguousarray(parts.transpose(0, 5, 1, 4, 2, 3).reshape(weight.shape))


def _channels(model: Model, entered: dict[str, int]) -> dict[str, int]:
    """Return how many channels the tensors have that enter the blocks, each with the axis of those.

    Raises:
        _NotPlain: where one is not known.
    """
    proto = copy_except(model.skeleton)
    for node in proto.graph.node:  # which onnx does not know, and which is shaped like the convolution in it
        if node.op_type == "FusedConv" and node.domain == _FUSED_DOMAIN:
            kept = [entry for entry in node.attribute if not entry.name.startswith("activation")]
            shaped = helper.make_node("Conv", node.input[:3], node.output)
            shaped.attribute.extend(kept)
            node.CopyFrom(shaped)
    small = [value for value in model.initializers.values() if value.size <= _RANK * 2 and value.is_numeric]
    proto.graph.initializer.extend(value.to_tensor() for value in small)
    for value in model.initializers.values():
        if value not in small:
            kind = helper.make_tensor_value_info(value.name, value.header.data_type, value.shape)
            proto.graph.input.append(kind)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    found = {}
    for info in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = info.type.tensor_type.shape.dim
        if info.name in entered and len(dims) == _RANK:
            found[info.name] = fixed_size(dims[entered[info.name]]) or 0
    if not all(found.get(name) for name in entered):
        raise _NotPlain
    return found


@cache
def _block_size() -> int | None:
    """Return how many channels this machine's onnxruntime puts into a block, None if it has none."""
    import onnxruntime

    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=DOMAIN)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 4, 1, 1]), ("y", None))
    ]
    graph = helper.make_graph([node], "block", infos[:1], infos[1:])
    opsets = [helper.make_opsetid(ONNX_DOMAIN, _OLDEST), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": np.zeros((1, 4, 1, 1), np.float32)})
    except Exception:  # its exceptions have no common base
        return None
    return int(found.shape[1])
