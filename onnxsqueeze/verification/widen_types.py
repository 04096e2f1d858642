"""Rewrite a model so that it computes in a wider floating-point type."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx.numpy_helper
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import as_text
from onnxsqueeze.model.walk import subgraphs

# Operators that make a float32 unless an attribute says otherwise.
_DEFAULTS_TO_FLOAT = {
    "SequenceEmpty": "dtype",
    "HannWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
}
_TYPE_ATTRIBUTES = {"to", "dtype", "output_datatype", "output_dtype"}


def widened(model: Model, kinds: Iterable[int], to: int) -> Model:
    """Return a model in which all tensors of some types have another one.

    Initializers, constants, casts, the signature, subgraphs and functions are rewritten; the argument stays as it is.

    Args:
        model: the model.
        kinds: the types to replace (TensorProto.DataType).
        to: the type to replace them by.
    """
    return _Widening(frozenset(kinds), to).model(model)


class _Widening:
    def __init__(self, kinds: frozenset[int], to: int) -> None:
        self._kinds = kinds
        self._to = to
        self._dtype = helper.tensor_dtype_to_np_dtype(to)

    def model(self, model: Model) -> Model:
        skeleton = ModelProto()
        skeleton.CopyFrom(model.skeleton)
        self._graph(skeleton.graph)
        for function in skeleton.functions:
            function.ClearField("value_info")
            for node in function.node:
                self._node(node)
            self._cast_references(function)
        return Model(skeleton, {name: self._initializer(value) for name, value in model.initializers.items()})

    def _initializer(self, value: Initializer) -> Initializer:
        return value.with_array(value.array.astype(self._dtype)) if value.header.data_type in self._kinds else value

    def _graph(self, graph: GraphProto) -> None:
        graph.ClearField("value_info")
        for value in (*graph.input, *graph.output):
            self._type(value.type)
        for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
            self._tensor(tensor)
        for node in graph.node:
            self._node(node)

    def _type(self, kind: TypeProto) -> None:
        which = kind.WhichOneof("value")
        if which in ("sequence_type", "optional_type"):
            self._type(getattr(kind, which).elem_type)
        elif which == "map_type":
            self._type(kind.map_type.value_type)
        elif which is not None and getattr(kind, which).elem_type in self._kinds:
            getattr(kind, which).elem_type = self._to

    def _tensor(self, tensor: TensorProto) -> None:
        if tensor.data_type in self._kinds:
            array = onnx.numpy_helper.to_array(tensor).astype(self._dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, as_text(tensor.name)))

    def _node(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                self._tensor(attribute.t)
            elif attribute.type == AttributeProto.SPARSE_TENSOR:
                self._tensor(attribute.sparse_tensor.values)
            elif attribute.type == AttributeProto.TYPE_PROTO:
                self._type(attribute.tp)
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in self._kinds:
                attribute.i = self._to
        for graph in subgraphs(node):
            self._graph(graph)
        if TensorProto.FLOAT in self._kinds:
            self._default(node)

    def _cast_references(self, function: FunctionProto) -> None:
        """Cast constants that a caller's attribute gives, whose type is always float32."""
        if TensorProto.FLOAT not in self._kinds:
            return
        for index, node in reversed(list(enumerate(function.node))):
            if node.op_type == "Constant" and _is_referenced_float(node.attribute[0]):
                output, node.output[0] = node.output[0], f"{node.output[0]}.float"
                function.node.insert(index + 1, helper.make_node("Cast", [node.output[0]], [output], to=self._to))

    def _default(self, node: NodeProto) -> None:
        """Say what type a node makes that makes a float32 by default."""
        names = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and (given := names.get("value_float") or names.get("value_floats")):
            if given.ref_attr_name:
                return
            array = np.array(helper.get_attribute_value(given), self._dtype)
            given.CopyFrom(helper.make_attribute("value", onnx.numpy_helper.from_array(array)))
        elif node.op_type == "ConstantOfShape" and "value" not in names:
            zero = onnx.numpy_helper.from_array(np.zeros(1, self._dtype))
            node.attribute.append(helper.make_attribute("value", zero))
        elif (name := _DEFAULTS_TO_FLOAT.get(node.op_type)) is not None and name not in names:
            node.attribute.append(helper.make_attribute(name, self._to))


def _is_referenced_float(attribute: AttributeProto) -> bool:
    return bool(attribute.ref_attr_name) and attribute.name in ("value_float", "value_floats")
