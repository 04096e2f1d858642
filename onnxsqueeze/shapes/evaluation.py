"""What a node computes of constants alone, where no rule says how: onnxruntime is asked, as a user would.

It computes in float64 where it can, and the result is cast once to the type that the node gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.graph.lone_node import lone_node

_QUIET = 4  # onnxruntime's log severity: errors come as exceptions, so that nothing need be printed
_CONTRIB = "com.microsoft"


def evaluates(node: Node) -> bool:
    """Whether a node gives the same outputs whenever it reads the same constants, as far as the standard says."""
    if not node.inputs or node.version == 0 or node.group is not None or node.captured or node.failed:
        return False
    if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.proto.attribute):
        return False
    if node.domain == _CONTRIB:  # of its operators only those with subgraphs draw numbers
        return True
    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
    except onnx.defs.SchemaError:
        return False
    kind = getattr(schema, "node_determinism", None)
    return kind is not None and kind == onnx.defs.OpSchema.NodeDeterminism.Deterministic


def evaluated_by_runtime(
    graph: Graph, node: Node, inputs: Sequence[Array | None], dtypes: Sequence[int | None]
) -> list[Array | None]:
    """Return the outputs of a node, none where onnxruntime does not compute it.

    Args:
        graph: the node's, for the versions of operators. node: one of which `evaluates` holds.
        inputs: its constants, None where one is absent. dtypes: the types of its outputs as far as they are known.
    """
    for given in _widened(inputs, dtypes):
        found = _run(graph, node, given)
        if found:
            return [_cast(array, dtype) for array, dtype in zip(found, dtypes, strict=True)]
    return []


def _widened(inputs: Sequence[Array | None], dtypes: Sequence[int | None]) -> Iterator[Sequence[Array | None]]:
    """Yield the inputs in wider types, widest first, where what comes out can be cast back; at last as they are."""
    kinds = {array.dtype for array in inputs if array is not None and is_floating(array.dtype)}
    made = {helper.tensor_dtype_to_np_dtype(dtype) for dtype in dtypes if dtype is not None}
    if len(kinds) == 1 and None not in dtypes and {kind for kind in made if is_floating(kind)} == kinds:
        for wide in (np.float64, np.float32):
            if np.dtype(wide).itemsize > next(iter(kinds)).itemsize:
                yield [array.astype(wide) if array is not None and array.dtype in kinds else array for array in inputs]
    yield inputs


def _cast(array: Any, dtype: int | None) -> Array | None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubV":
        return None
    kind = array.dtype if dtype is None else helper.tensor_dtype_to_np_dtype(dtype)
    with np.errstate(all="ignore"):
        return array.astype(kind, copy=False)


def _run(graph: Graph, node: Node, inputs: Sequence[Array | None]) -> list[Any]:
    """Run the node alone; nothing where onnxruntime does not take it."""
    import onnxruntime

    given = {name: array for name, array in zip(node.inputs, inputs, strict=True) if array is not None}
    names = [name for name in node.outputs if name]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        model = lone_node(graph, node, given)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = dict(zip(names, session.run(names, given), strict=True))
    except Exception:  # its exceptions have no common base; whoever runs the model will see them
        return []
    return [results.get(name) for name in node.outputs]
