"""Running a model up to some of its tensors, batch after batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, ValueInfoProto

from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.squeezing.samples import Feeds, Part
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import RefusedError, Session

Array = npt.NDArray[Any]


class Runner:
    """A model that gives some of its tensors.

    Only what they depend on is computed, so that tensors near the inputs come cheap.
    """

    def __init__(self, model: Model, tensors: Sequence[str] = ()) -> None:
        """Load the model.

        Args:
            model: the model. tensors: which to give; by default the outputs.

        Raises:
            UsageError: when onnxruntime does not take it.
        """
        self._given = [value.name for value in model.skeleton.graph.input if value.name in tensors]
        wanted = [name for name in dict.fromkeys(tensors) if name not in self._given]
        self._nothing = bool(tensors) and not wanted
        if self._nothing:
            return
        try:
            self._session = Session(Source(_giving(model, wanted) if tensors else model), optimized=True)
        except RefusedError as error:
            raise UsageError(f"onnxruntime does not load the model: {error}") from None

    def run(self, part: Part) -> Iterator[dict[str, Array]]:
        """Yield the tensors by name, batch after batch.

        Raises:
            UsageError: when the model does not run on a batch, or the batch is not finite.
        """
        yield from self.run_on(part.batches())

    def run_on(self, batches: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """Yield the tensors by name for what is fed, batch after batch; raises as `run` does."""
        for feeds in batches:
            own = {name: feeds[name] for name in self._given}
            try:
                yield own if self._nothing else {**self._session.run(feeds), **own}
            except RefusedError as error:
                raise UsageError(f"--data: the model does not run on the samples: {error}") from None


def outputs_of(model: Model, part: Part) -> list[Array]:
    """Return the outputs of a model on samples, each joined along the axis of the samples."""
    return joined(Runner(model).run(part))


def joined(batches: Iterable[Mapping[str, Array]]) -> list[Array]:
    """Return tensors of several batches, each joined along the axis in which they differ, else the first."""
    values = [list(found.values()) for found in batches]
    return [_joined([np.atleast_1d(array) for array in arrays]) for arrays in zip(*values, strict=True)]


def _joined(arrays: Sequence[Array]) -> Array:
    shapes = np.array([array.shape for array in arrays])
    differing = np.flatnonzero((shapes != shapes[0]).any(axis=0))
    return np.concatenate(arrays, axis=int(differing[0]) if differing.size == 1 else 0)


def _giving(model: Model, tensors: Sequence[str]) -> Model:
    """Return the part of a model that computes these tensors."""
    known = {value.name: value for value in (*model.skeleton.graph.value_info, *model.skeleton.graph.output)}
    outputs = [known.get(name) or ValueInfoProto(name=name) for name in tensors]
    needed, nodes = set(tensors), []
    pairs = list(zip(model.skeleton.graph.node, Graph.read_names(model.skeleton.graph), strict=True))
    for node, reads in reversed(pairs):
        if needed.intersection(node.output):
            needed.update(reads)
            nodes.append(node)
    return part_of(model, nodes[::-1], model.skeleton.graph.input, outputs)


def part_of(
    model: Model, nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> Model:
    """Return the model of some nodes of another, with what they read of its weights."""
    skeleton = copy_except(model.skeleton, "graph")
    graph = copy_except(model.skeleton.graph, "node", "input", "output", "value_info")
    own = {value.name for value in inputs}
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    graph.value_info.extend(value for value in model.skeleton.graph.value_info if value.name not in own)
    skeleton.graph.CopyFrom(graph)
    read = {name for names in Graph.read_names(graph) for name in names} | own | {value.name for value in outputs}
    used = {name: weight for name, weight in model.initializers.items() if name in read}
    return replace(model, skeleton=skeleton, initializers=used)
