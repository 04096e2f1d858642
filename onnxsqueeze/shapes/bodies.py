"""Graphs inside of nodes, as models of their own: what they capture is an input, or a constant."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxsqueeze.abstract.symbolic import Symbolic
from onnxsqueeze.model.initializer import Initializer, from_tensor
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.model.sparse import with_dense
from onnxsqueeze.model.walk import free_names
from onnxsqueeze.rules.contract import Context


def as_model(
    body: onnx.GraphProto, skeleton: onnx.ModelProto, context: Context, constants: Mapping[str, Initializer]
) -> Model:
    """Return a body as a model of its own.

    Args:
        body: the graph. skeleton: the model that it is in, of which all but the graph counts.
        context: what is known of the graph around it. constants: those around it.

    Raises:
        InvalidModelError: when one of its tensors contradicts itself.
    """
    own = copy_except(skeleton, "graph")
    own.graph.CopyFrom(copy_except(body, "initializer"))
    stored = {tensor.name: from_tensor(tensor) for tensor in body.initializer}
    for name in dict.fromkeys(free_names(body)):
        constant = _constant(name, context, constants)
        if constant is not None:
            stored[name] = constant
        else:
            own.graph.input.append(_typed(name, context))
    return with_dense(Model(own, stored))


def _constant(name: str, context: Context, constants: Mapping[str, Initializer]) -> Initializer | None:
    """Return a constant of a graph outside that nothing can replace."""
    if name in constants and name not in context.graph.overridable:
        return constants[name]
    value = context.value(name)
    return None if value is None or context.is_activation(name) else Initializer.from_array(name, value)


def _typed(name: str, context: Context) -> onnx.ValueInfoProto:
    """Declare a tensor of a graph outside as far as it is known."""
    value = onnx.ValueInfoProto(name=name)
    if name not in context.dtypes:
        return value
    value.type.tensor_type.elem_type = context.dtypes[name]
    if name in context.shapes:
        value.type.tensor_type.shape.SetInParent()
        for dimension in context.shapes[name]:
            entry = value.type.tensor_type.shape.dim.add()
            if isinstance(dimension, Symbolic):
                entry.dim_param = str(dimension)
            else:
                entry.dim_value = dimension
    return value
