"""One of the two models: what verification needs to know of it while its weights are not in memory."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

import onnx.inliner
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto

from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.sources import Source as Readable
from onnxsqueeze.model.sources import in_memory
from onnxsqueeze.model.walk import all_nodes

Given = Readable | Model

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

SMALL = 2_000_000
"""Up to so many weights a model is small: evaluating it more often, or in float64, takes no time to speak of."""

_FIRST_WITH_OVERRIDES = 4  # since this IR version an initializer that is an input can be fed; before, all were inputs


class Source:
    """A model, by path or in memory.

    Attributes:
        given: the model as the caller gave it, or sorted; for a path, the weights are read again when they are needed.
        has_data_file: whether it is a file with others beside it.
        skeleton: the model without its initializers.
        shapes: the shapes of the initializers.
        inputs: the graph inputs that a caller must feed.
        overridable: the graph inputs that have an initializer for a default.
        weights: the number of elements of floating-point initializers.
        float_types: the floating-point types (TensorProto.DataType) that the model uses anywhere.
    """

    def __init__(self, given: Given, *, check: bool = False) -> None:
        """Read the model.

        Raises:
            InvalidModelError: when it cannot be read or, with `check`, when the checker refuses it.
        """
        given = given if isinstance(given, Model) else in_memory(given)
        model = given if isinstance(given, Model) else load(given, check=check)
        self.given: Path | ModelProto | Model = Path(given) if isinstance(given, (str, os.PathLike)) else given
        if model.notes:  # its nodes were sorted, without which onnxruntime runs no subgraph or function
            self.given = model
        self.skeleton = model.skeleton
        self.has_data_file = model.has_data_file
        self.shapes = {name: initializer.shape for name, initializer in model.initializers.items()}
        floats = [value.header for value in model.initializers.values() if value.header.data_type in FLOAT_TYPES]
        self.weights = sum(math.prod(header.dims) for header in floats)
        stored = set(self.shapes) | {sparse.values.name for sparse in self.skeleton.graph.sparse_initializer}
        declared = self.skeleton.graph.input
        self.inputs: list[ValueInfoProto] = [value for value in declared if value.name not in stored]
        fixed = self.skeleton.ir_version < _FIRST_WITH_OVERRIDES
        self.overridable = [] if fixed else [value for value in declared if value.name in stored]
        self.float_types = {header.data_type for header in floats} | _float_types(self.skeleton)

    def model(self) -> Model:
        """Return the model with its weights."""
        return self.given if isinstance(self.given, Model) else load(self.given, check=False)


def _float_types(model: ModelProto) -> set[int]:
    """Return the floating-point types in the signature and in the attributes of nodes."""
    found = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                found.add(attribute.t.data_type)
            elif attribute.name == "to" and attribute.type == AttributeProto.INT:
                found.add(attribute.i)
    return found & FLOAT_TYPES


def inlined(model: ModelProto) -> ModelProto:
    """Return a model without functions, where that can be, so that what they do is looked at like everything else."""
    if model.functions:
        with suppress(Exception):  # what cannot be inlined is left as it is
            return onnx.inliner.inline_local_functions(model)
    return model
