"""The shape of every tensor, one node at a time: onnx's own inference fed with all that is known by then.

Whole-graph inference gives up at the first Reshape whose target the graph computes. Here each node is inferred with the
values folded so far, and what stays unknown becomes a named symbol, so that equal sizes stay recognisably equal.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.shape_inference
from onnx import TypeProto, ValueInfoProto

from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic, parsed, symbol
from onnxsqueeze.errors import InvalidModelError
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.protobuf import dimension_name, fixed_size
from onnxsqueeze.rules.contract import Context, OpRule
from onnxsqueeze.rules.guard import NOT_COMPUTABLE
from onnxsqueeze.rules.lessons import RuleFailed
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.shapes.bodies import as_model
from onnxsqueeze.shapes.evaluation import evaluated_by_runtime, evaluates

_LONGEST = 2**63 - 1  # that ONNX can write
MOST_AXES = 32
"""What numpy broadcasts: a tensor of more counts as one of unknown shape."""

_NOT_INFERRED = (
    onnx.defs.SchemaError,  # no schema
    onnx.checker.ValidationError,  # a data type that the schema excludes, though runtimes may take it
    *(RuntimeError, ValueError, KeyError),  # a bug of the inference
)
_MOST_SIZES = 4096  # a longer integer tensor is data, not a shape
_LARGEST_KEY = 4096  # bytes of a node whose types are remembered
_MOST_COMPUTED = 1 << 22  # elements that are computed beforehand even if the file holds fewer


class ShapeInference:
    """Fills ``context.shapes`` and ``context.dtypes``."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self._graph = graph
        self._context = context
        self._named: dict[str, Dimension] = {}
        self._types: dict[str, TypeProto] = {}
        self._inferred: dict[tuple[Any, ...], tuple[TypeProto | None, ...]] = {}
        self._declared = {value.name: value for value in graph.proto.value_info}
        self._declared.update({value.name: value for value in graph.proto.output})
        self._opsets = list(graph.model.skeleton.opset_import)
        for value in graph.proto.input:
            if value.name not in graph.initializers:
                self._declare(value)
        for name, initializer in graph.initializers.items():
            self._set(name, initializer.header.data_type, tuple(initializer.shape))

    def infer(self, node: Node, rule: OpRule) -> None:
        """Set the type of each output of ``node`` as far as it can be known."""
        found = self._by_schema(node)
        infer = rule.infer if node.group is None else _like_first
        own = infer(node, self._context) if infer else [None] * len(node.outputs)
        for position, name in enumerate(node.outputs):
            if name:
                self._settle(node, rule, name, found.get(name), own[position] if position < len(own) else None)

    def _settle(self, node: Node, rule: OpRule, name: str, kind: TypeProto | None, shape: Shape | None) -> None:
        """Take the rule's shape, else onnx's, else the declared one."""
        if kind is not None and not kind.HasField("tensor_type"):
            return
        if kind is None and shape is None:
            if name in self._declared:
                self._declare(self._declared[name])
            return
        if kind is not None:
            self._context.dtypes[name] = kind.tensor_type.elem_type
            shape = shape if shape is not None else self._shape(name, kind)
        elif (
            node.inputs and node.inputs[0] in self._context.dtypes
        ):  # operators with a shape of their own keep the type, unless they say otherwise
            own = rule.element_type and rule.element_type(node, self._context)
            if isinstance(own, Sequence):
                own = own[node.outputs.index(name)]
            self._context.dtypes[name] = own or self._context.dtypes[node.inputs[0]]
        if shape is not None and name in self._context.dtypes:
            self._set(name, self._context.dtypes[name], shape)
        elif name in self._declared:
            self._declare(self._declared[name])

    def _by_branches(self, node: Node, branches: Sequence[onnx.GraphProto]) -> dict[str, TypeProto]:
        """Return what is known of the outputs of a node that hands on what one of some graphs makes, as of an If.

        Sizes of a branch's own are called as those of another branch may be, and are not the same.
        """
        outside = {
            name
            for captured in node.captured
            for size in self._context.shapes.get(captured, ())
            for name in _names(size)
        }
        found = [self._of_branch(branch) for branch in branches]
        kinds = {}
        for position, name in enumerate(node.outputs):
            types = [branch[position] for branch in found]
            if name and (kind := _common([entry for entry in types if entry], outside)) and all(types):
                kinds[name] = kind
        return kinds

    def _of_branch(self, branch: onnx.GraphProto) -> list[tuple[int, Shape | None] | None]:
        """Return the element type and the shape of each output of a branch, None where not even the type is known."""
        try:
            model = as_model(branch, self._graph.model.skeleton, self._context, self._graph.initializers)
            context = inferred(Graph(model))
        except (InvalidModelError, RuleFailed):  # whoever runs the model will say so, or the analysis of the branch
            return [None] * len(branch.output)
        names = [value.name for value in branch.output]
        return [(context.dtypes[name], context.shapes.get(name)) if name in context.dtypes else None for name in names]

    def _by_schema(self, node: Node) -> dict[str, TypeProto]:
        branches = node.bodies
        if branches and all(not body.input and len(body.output) == len(node.outputs) for body in branches):
            return self._by_branches(node, branches)
        dtypes = self._context.dtypes
        if node.version == 0 or node.captured or any(name and name not in dtypes for name in node.inputs):
            return {}
        try:
            found = self._output_types(node)
            return {name: kind for name, kind in zip(node.outputs, found, strict=True) if kind is not None}
        except onnx.shape_inference.InferenceError:
            self._context.doubtful.add(node.index)
            return {}
        except _NOT_INFERRED:
            return {}  # the outputs' types stay unknown, and so does what reads them

    def _output_types(self, node: Node) -> tuple[TypeProto | None, ...]:
        """Return the type of each output; nodes of one operator on inputs of the same types are many."""
        data = {name: tensor for name in node.inputs if name and (tensor := self._data(name, node)) is not None}
        key = self._key(node, data) if node.proto.ByteSize() <= _LARGEST_KEY else None
        found = self._inferred.get(key) if key is not None else None
        if found is None:
            schema = onnx.defs.get_schema(node.op, node.version, node.domain)
            kinds = {name: self._type(name) for name in node.inputs if name}
            made = onnx.shape_inference.infer_node_outputs(schema, node.proto, kinds, data, {}, self._opsets)
            found = tuple(made.get(name) for name in node.outputs)
            if key is not None:
                self._inferred[key] = found
        return found

    def _key(self, node: Node, data: Mapping[str, onnx.TensorProto]) -> tuple[Any, ...]:
        """Return all that the types of a node's outputs depend on, whatever its tensors are called."""
        context, places = self._context, {name: place for place, name in enumerate(node.inputs)}
        types = [(context.dtypes.get(name), context.shapes.get(name), places[name]) for name in node.inputs]
        values = [(places[name], tuple(tensor.dims), tensor.raw_data) for name, tensor in data.items()]
        attributes = [attribute.SerializeToString() for attribute in node.proto.attribute]
        present = tuple(map(bool, node.outputs))
        return (node.op, node.domain, node.version, present, *types, *attributes, *values)

    def _data(self, name: str, node: Node) -> onnx.TensorProto | None:
        initializer = self._graph.initializers.get(name)
        if initializer is not None and initializer.size > _MOST_SIZES:
            return None
        array = self._context.value(name)
        if array is None or array.size > _MOST_SIZES or array.dtype.kind not in "fiub":
            return None
        if array.dtype.kind == "f" and array.size > max(1, self._context.rank(node.inputs[0])):
            return None  # the scales of a Resize have one number for each axis: what is longer is a weight
        return onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)

    def _type(self, name: str) -> TypeProto:
        if name not in self._types:
            kind = TypeProto()
            kind.tensor_type.elem_type = self._context.dtypes[name]
            if name in self._context.shapes:
                for dimension in self._context.shapes[name]:
                    entry = kind.tensor_type.shape.dim.add()
                    if isinstance(dimension, Symbolic):
                        entry.dim_param = str(dimension)
                        self._named[entry.dim_param] = dimension
                    else:
                        entry.dim_value = dimension
                if not self._context.shapes[name]:
                    kind.tensor_type.shape.SetInParent()
            self._types[name] = kind
        return self._types[name]

    def _shape(self, name: str, kind: TypeProto) -> Shape | None:
        if not kind.tensor_type.HasField("shape"):
            return None
        declared = self._declared_dims(name, len(kind.tensor_type.shape.dim))
        return tuple(
            self._dimension(entry, f"{name}:{axis}", declared[axis])
            for axis, entry in enumerate(kind.tensor_type.shape.dim)
        )

    def _declared_dims(self, name: str, rank: int) -> Sequence[Any]:
        value = self._declared.get(name)
        if value is None or len(value.type.tensor_type.shape.dim) != rank:
            return [None] * rank
        return list(value.type.tensor_type.shape.dim)

    def _dimension(self, entry: Any, otherwise: str, declared: Any = None) -> Dimension:
        if (size := fixed_size(entry)) is not None:
            return size
        name = dimension_name(entry.dim_param)
        if name:
            return self._named.setdefault(name, parsed(name))
        return self._dimension(declared, otherwise) if declared is not None else symbol(otherwise)

    def _declare(self, value: ValueInfoProto) -> None:
        if not value.type.HasField("tensor_type"):
            return
        self._context.dtypes[value.name] = value.type.tensor_type.elem_type
        shape = self._shape(value.name, value.type)
        if shape is not None:
            self._set(value.name, value.type.tensor_type.elem_type, shape)

    def _set(self, name: str, dtype: int, shape: Shape) -> None:
        """Note a tensor's type; a shape that no tensor can have, as senseless constants ask for, is not known."""
        self._context.dtypes[name] = dtype
        if any(isinstance(size, int) and not 0 <= size <= _LONGEST for size in shape):
            return
        if len(shape) <= MOST_AXES:
            self._context.shapes[name] = shape


def inferred(graph: Graph) -> Context:
    """Return what shapes alone say of a graph.

    Raises:
        RuleFailed: when a rule does.
    """
    context = Context(graph)
    inference = ShapeInference(graph, context)
    for node in graph.nodes:
        inference.infer(node, rule_for(node))
        fold(node, rule_for(node), context)
    return context


def _names(size: Dimension) -> Sequence[str]:
    return size.names if isinstance(size, Symbolic) else ()


def _common(types: Sequence[tuple[int, Shape | None]], outside: Collection[str]) -> TypeProto | None:
    """Return what several types have in common; a size that differs, or may, is left open."""
    if len({dtype for dtype, _ in types}) != 1:
        return None
    kind = TypeProto()
    kind.tensor_type.elem_type = types[0][0]
    shapes = [shape for _, shape in types if shape is not None]
    if len(shapes) == len(types) and len({len(shape) for shape in shapes}) == 1:
        kind.tensor_type.shape.SetInParent()
        for sizes in zip(*shapes, strict=True):
            entry = kind.tensor_type.shape.dim.add()
            if len(set(sizes)) == 1 and isinstance(sizes[0], int):
                entry.dim_value = sizes[0]
            elif len(set(sizes)) == 1 and set(_names(sizes[0])) <= set(outside):
                entry.dim_param = str(sizes[0])
    return kind


def _like_first(node: Node, context: Context) -> Sequence[Shape | None]:
    """A fused node's output is shaped as its first input, if none of the others can broadcast that to another shape."""
    shape = context.shapes.get(node.inputs[0], ())
    others = [context.shapes.get(name, ()) for name in node.inputs[1:] if name]
    aligned = [zip(other[::-1], shape[::-1], strict=False) for other in others if len(other) <= len(shape)]
    fits = len(aligned) == len(others) and all(own in (1, length) for pairs in aligned for own, length in pairs)
    return [shape if shape and fits else None]


def fold(node: Node, rule: OpRule, context: Context) -> None:
    """Compute the outputs of a node whose inputs are constants or known sizes, unless they would be out of all size.

    A constant is one whatever its size and whoever computes it. But what a few numbers ask for may be far larger than
    all that the file holds: that stays computed.
    """
    if node.captured or (rule.evaluate is None and not evaluates(node)):
        return
    inputs = [context.sizes(name) if name else None for name in node.inputs]
    if any(array is None and name for array, name in zip(inputs, node.inputs, strict=True)):
        return
    if any(array is not None and array.ndim > MOST_AXES for array in inputs):
        return
    most = max(_MOST_COMPUTED, context.graph.stored_elements)
    if any(name and _elements(context.shapes.get(name)) > most for name in node.outputs):
        return
    if rule.evaluate is not None:
        found = evaluated(rule, node, inputs)
    elif all(name in context.values for name in node.outputs if name) or any(
        array is not None and array.dtype.kind not in "fiubV" for array in inputs
    ):
        return
    else:
        found = evaluated_by_runtime(context.graph, node, inputs, [context.dtypes.get(name) for name in node.outputs])
    for name, output in zip(node.outputs, found, strict=False):
        if (
            name
            and output is not None
            and np.ndim(output) <= MOST_AXES
            and np.size(output) <= (_MOST_SIZES if _is_symbolic(output) else most)
        ):
            context.values[name] = array = _plain(np.asarray(output), context.dtypes.get(name))
            context.shapes[name] = array.shape
            if array.dtype != object:
                context.dtypes.setdefault(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _elements(shape: Shape | None) -> int:
    return 0 if shape is None or any(isinstance(size, Symbolic) for size in shape) else math.prod(shape)  # type: ignore[arg-type]


def _is_symbolic(output: Any) -> bool:
    return getattr(getattr(output, "dtype", None), "kind", "") == "O"


def evaluated(rule: OpRule, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """Return the outputs, or nothing where they cannot be computed or depend on a size known only at run time."""
    if rule.evaluate is None or node.captured:
        return []
    given = [array for array in inputs if array is not None]
    if any(array.dtype == object for array in given) and any(array.size > _MOST_SIZES for array in given):
        return []
    try:
        with np.errstate(all="ignore"):
            return rule.evaluate(node, inputs)
    except NOT_COMPUTABLE:
        return []


def _plain(array: Any, dtype: int | None) -> Any:
    """Return an object array without symbolic entries as an ordinary one."""
    if array.dtype != object or any(isinstance(entry, Symbolic) for entry in array.flat):
        return array
    return array.astype(np.int64 if dtype is None else onnx.helper.tensor_dtype_to_np_dtype(dtype))
