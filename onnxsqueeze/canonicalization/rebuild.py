"""A model with other nodes, all else as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import onnx
from onnx import ModelProto

from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except

_FIRST_WITH_FREE_INITIALIZERS = 4  # the IR version since which an initializer need not be a graph input


def _rewritten(model: Model, slices: dict[int, tuple[onnx.NodeProto, list[Initializer]]], dropped: set[int]) -> Model:
    def nodes() -> Iterator[onnx.NodeProto]:
        for index, node in enumerate(model.skeleton.graph.node):
            if index in slices:
                yield slices[index][0]
            elif index not in dropped:
                yield node

    new = {constant.name: constant for _, constants in slices.values() for constant in constants}
    return replace(model, skeleton=_with_nodes(model.skeleton, nodes()), initializers=model.initializers | new)


def _with_nodes(model: ModelProto, nodes: Iterable[onnx.NodeProto]) -> ModelProto:
    changed = copy_except(model, "graph")
    changed.graph.CopyFrom(copy_except(model.graph, "node"))
    changed.graph.node.extend(nodes)
    return changed
