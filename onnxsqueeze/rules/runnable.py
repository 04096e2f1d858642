"""Whether a node can run at all: where a rule fails at one that cannot, the model is at fault, not the rule."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from onnxsqueeze.abstract.symbolic import Dimension, Symbolic
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.graph.lone_node import lone_node
from onnxsqueeze.model.model import Model
from onnxsqueeze.processes.apart import CrashedError, NotPortableError, apart_wanted, call_apart
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import RefusedError, Session

_MOST_NODES = 1000  # that are tried
_MOST_ELEMENTS = 2**24  # of an input: more would take long to try
_SIZE = 4  # of a dimension that is known only at run time
_NOT_SUPPORTED = ("NOT_IMPLEMENTED", "Could not find an implementation", "is not a registered function/op")
"""What onnxruntime says of a valid model that it has no code for."""


def why_not_runnable(node: Node, context: Context) -> str:
    """Return why onnxruntime refuses a node on inputs as they are known here; "" if it runs, or if that cannot be told.

    It gets the constants that it reads, and zeros for the rest. A size that is known only at run time counts as 4.
    """
    names = [name for name in dict.fromkeys(node.inputs) if name]
    if node.group is not None or node.captured or node.version == 0:
        return ""
    if any(attribute.ref_attr_name for attribute in node.proto.attribute):
        return "an attribute refers to one of a function, and it is in none"
    if any(name not in context.shapes or context.dtypes.get(name) == TensorProto.STRING for name in names):
        return ""
    if any(context.value(name) is None and _may_be_sizes(name, context) for name in names):
        return ""  # zeros say nothing about the sizes that will be asked for
    arrays = {name: _array(name, context) for name in names}
    given = {name: array for name, array in arrays.items() if array is not None}
    if len(given) < len(arrays):
        return ""
    reason = _why(node, given, context)
    if _is_unsupported(reason):  # there may be code for float32
        reason = _why(node, {name: _in_float32(array) for name, array in given.items()}, context)
    return "" if _is_unsupported(reason) else reason


def _may_be_sizes(name: str, context: Context) -> bool:
    return context.dtypes.get(name) == TensorProto.INT64 and context.rank(name) == 1


def unrunnable(nodes: Iterable[Node], context: Context) -> tuple[Node, str] | None:
    """Return the first of some nodes that cannot run, and why; None where there is none."""
    for node in itertools.islice(nodes, _MOST_NODES):
        if reason := why_not_runnable(node, context):
            return node, reason
    return None


def cannot_run(node: Node, reason: str) -> str:
    """Say that a node cannot run."""
    return f"onnxruntime cannot run {node.operator} ({node.label}): {reason}"


def above(last: Node, context: Context) -> Iterator[Node]:
    """Yield a node and those that it depends on, the nearest first."""
    waiting, seen = deque([last]), {last.index}
    while waiting:
        node = waiting.popleft()
        yield node
        for name in node.inputs:
            producer = context.graph.producers.get(name)
            if producer is not None and producer.index not in seen:
                seen.add(producer.index)
                waiting.append(producer)


def _in_float32(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(np.float32) if array.dtype.name in ("float64", "float16", "bfloat16") else array


def why_refused(source: ModelProto | Source, feeds: dict[str, Any] | None = None) -> str:
    """Return why onnxruntime does not load a model, or run it on inputs; "" if it does, or lacks the code for it."""
    reason = _reason(source, feeds)
    return "" if _is_unsupported(reason) else reason


def why_not_loaded(model: Model) -> str:
    """Return why onnxruntime does not load a whole model, which may make it crash, as `why_refused` does."""
    try:
        reason: str = call_apart(_reason_of_model, model) if apart_wanted() else _reason_of_model(model)
    except CrashedError as error:
        return f"it crashes ({error})"
    except (NotPortableError, OSError):
        reason = _reason_of_model(model)
    return "" if _is_unsupported(reason) else reason


def _reason_of_model(model: Model) -> str:
    return _reason(Source(model), None)


def _is_unsupported(reason: str) -> bool:
    return any(words in reason for words in _NOT_SUPPORTED)


def _reason(source: ModelProto | Source, feeds: dict[str, Any] | None) -> str:
    try:
        session = Session(source if isinstance(source, Source) else Source(source), optimized=False)
        if feeds is not None:
            session.run(feeds)
    except RefusedError as error:
        return str(error)
    return ""


def _why(node: Node, arrays: Mapping[str, npt.NDArray[Any]], context: Context) -> str:
    """Run the node alone."""
    fed = {name: array for name, array in arrays.items() if context.is_activation(name)}
    stored = {name: array for name, array in arrays.items() if name not in fed}
    return _reason(lone_node(context.graph, node, fed, stored), fed)


def _array(name: str, context: Context) -> npt.NDArray[Any] | None:
    value = context.value(name)
    if value is None and name in context.graph.initializers:
        value = context.graph.initializers[name].array
    if value is not None:
        return np.asarray(value)
    shape = [_size(size) for size in context.shape(name)]
    if prod(shape) > _MOST_ELEMENTS:
        return None
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(context.dtypes[name]))


def _size(size: Dimension) -> int:
    return max(0, size.coefficient * _SIZE ** len(size.names) + size.offset) if isinstance(size, Symbolic) else size
