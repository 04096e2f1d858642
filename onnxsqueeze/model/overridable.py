"""Initializers that are graph inputs too: since IR version 4 whoever runs the model may give others in their place."""

from __future__ import annotations

from dataclasses import replace

from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except

_FIRST_WITH_FREE_INITIALIZERS = 4  # the IR version since which an initializer need not be a graph input


def overridable(model: Model) -> frozenset[str]:
    """Return the initializers that a caller may replace; in older files all are inputs, and none is meant to be."""
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return frozenset()
    return frozenset(value.name for value in model.skeleton.graph.input if value.name in model.initializers)


def with_fixed_inputs(model: Model) -> Model:
    """Return a model whose initializers are constants, none of them an input; the argument itself if that is so."""
    names = overridable(model)
    if not names:
        return model
    skeleton = copy_except(model.skeleton, "graph")
    skeleton.graph.CopyFrom(copy_except(model.skeleton.graph, "input"))
    skeleton.graph.input.extend(value for value in model.skeleton.graph.input if value.name not in names)
    return replace(model, skeleton=skeleton)
