"""Run a model that is large for the memory block by block, so that no more weights are in memory than one block reads.

A block is a run of nodes; what later ones read goes from block to block as arrays. Its large weights are inputs of the
block: onnxruntime takes them where they lie, in a mapped file, and their pages are given back behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.model.walk import read_names

Values = dict[str, Any]
Run = Callable[[Sequence[str], Values], Sequence[Any]]
"""Runs a loaded model: of the names of outputs and the inputs by name makes the outputs."""

BLOCK = 1 << 28
"""Bytes of weights that a block reads, if a single node does not read more."""

_LARGE = 1 << 20  # bytes of a weight that is an input; what optimizations look at is mostly smaller
_FED = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64")  # from numpy, uncopied


class WholeError(Exception):
    """The model cannot be run in blocks: what goes from one to another is no array, or one cannot be loaded."""


@dataclass
class _Block:
    """Some nodes that follow each other.

    Attributes:
        reads: what they read of inputs and of earlier blocks. weights, stored: initializers, large ones and others.
        gives: what outputs or later blocks want of it. run: runs it, once it is loaded.
    """

    nodes: list[NodeProto] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    weights: dict[str, Initializer] = field(default_factory=dict)
    stored: dict[str, Initializer] = field(default_factory=dict)
    gives: list[str] = field(default_factory=list)
    run: Run | None = None


class Blocks:
    """A model that is run in blocks."""

    def __init__(self, model: Model, load: Callable[[bytes], Run]) -> None:
        """Take a model, whose weights are mapped, and what loads an encoded model; nothing is loaded yet."""
        self._model = model = with_initializers(model)
        self._load = load
        self._bare = copy_except(model.skeleton, "graph")
        self._declared = {value.name: value for value in model.skeleton.graph.input}
        self._blocks: dict[tuple[str, ...], list[_Block]] = {}

    def run(self, feeds: Values, names: Sequence[str]) -> Values:
        """Run the model and return the outputs that are named.

        Raises:
            WholeError: when it has to be run as a whole.
            Exception: what onnxruntime raises.
        """
        if tuple(names) not in self._blocks:
            self._blocks[tuple(names)] = list(_split(self._model, names))
        blocks, tensors = self._blocks[tuple(names)], dict(feeds)
        last = {name: number for number, block in enumerate(blocks) for name in (*block.reads, *block.weights)}
        for number, block in enumerate(blocks):
            if block.gives:
                tensors.update(self._run_block(block, tensors))
            for name in [name for name in tensors if last.get(name, -1) <= number and name not in names]:
                del tensors[name]
        stored = self._model.initializers
        return {name: tensors[name] if name in tensors else stored[name].array for name in names}

    def _run_block(self, block: _Block, tensors: Values) -> Values:
        given = {name: tensors[name] for name in block.reads if name in tensors}
        given.update({name: tensors.get(name, value.array) for name, value in block.weights.items()})
        if not all(isinstance(value, np.ndarray) for value in given.values()):
            raise WholeError
        if block.run is None:
            try:
                block.run = self._load(self._encoded(block, given))
            except Exception:  # what the whole model says of its sizes, such as those of a Resize, a block may not
                raise WholeError from None
        made = block.run(block.gives, given)
        for weight in block.weights.values():
            weight.let_go()
        return dict(zip(block.gives, made, strict=True))

    def _encoded(self, block: _Block, given: Values) -> bytes:
        skeleton = ModelProto()
        skeleton.CopyFrom(self._bare)
        skeleton.graph.name = "block"
        skeleton.graph.node.extend(block.nodes)
        inputs = [*given, *(name for name in block.stored if name in self._declared and name not in given)]
        skeleton.graph.input.extend(self._declared.get(name) or _declared(name, given[name]) for name in inputs)
        skeleton.graph.output.extend(ValueInfoProto(name=name) for name in block.gives)
        encoded: bytes = to_proto(Model(skeleton, block.stored)).SerializeToString()
        return encoded


def _declared(name: str, value: np.ndarray[Any, Any]) -> ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    shape = [None] * value.ndim if value.ndim > 1 else None  # how many sizes there are it would take for known
    return helper.make_tensor_value_info(name, kind, shape)


def _split(model: Model, names: Collection[str]) -> Iterator[_Block]:
    """Yield the blocks of a model of which some outputs are wanted."""
    blocks = [_Block()]
    size = 0
    for node in model.skeleton.graph.node:
        weights = {name: model.initializers[name] for name in read_names(node) if name in model.initializers}
        large = {name: value for name, value in weights.items() if _is_fed(value)}
        more = sum(value.nbytes for name, value in large.items() if name not in blocks[-1].weights)
        if size + more > BLOCK and blocks[-1].nodes:
            blocks.append(_Block())
            size, more = 0, sum(value.nbytes for value in large.values())
        size += more
        block = blocks[-1]
        block.nodes.append(node)
        block.weights |= large
        block.stored |= {name: value for name, value in weights.items() if name not in large}
    wanted = set(names)
    for block in reversed(blocks):
        made = {name for node in block.nodes for name in node.output if name}
        read = dict.fromkeys(name for node in block.nodes for name in read_names(node) if name)
        block.gives = sorted(made & wanted)
        block.reads = [name for name in read if name not in made and name not in block.weights]
        wanted |= set(block.reads)
    yield from blocks


def _is_fed(value: Initializer) -> bool:
    return value.nbytes >= _LARGE and value.is_numeric and value.dtype.name in _FED
