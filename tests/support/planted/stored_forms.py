"""Networks whose weights are stored as files have them: in Constant nodes, narrower types, products, parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Stored = tuple[list[onnx.NodeProto], dict[str, Array]]
"""The nodes that compute a weight, and what they read."""

_SMALLEST = 64  # elements: what is smaller is no matrix


def stored(model: onnx.ModelProto, form: Callable[[str, Array], Stored], *, least: int = _SMALLEST) -> onnx.ModelProto:
    """Return a model whose weights of two axes or more are stored in a form, in front of the nodes that read them."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    initializers, nodes = [], []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim < 2 or array.size < least or array.dtype.kind != "f":
            initializers.append(tensor)
            continue
        made, read = form(tensor.name, array)
        nodes += made
        initializers += [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in read.items()]
    del changed.graph.initializer[:], changed.graph.node[:]
    changed.graph.initializer.extend(initializers)
    changed.graph.node.extend([*nodes, *model.graph.node])
    return changed


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def as_node(name: str, array: Array) -> Stored:
    return [node("Constant", [], name, value=numpy_helper.from_array(array))], {}


def half(name: str, array: Array) -> Stored:
    return [node("Cast", [f"{name}.h"], name, to=1)], {f"{name}.h": array.astype(np.float16)}


def half_transposed(name: str, array: Array) -> Stored:
    nodes = [node("Cast", [f"{name}.h"], f"{name}.c", to=1), node("Transpose", [f"{name}.c"], name)]
    return nodes, {f"{name}.h": array.T.astype(np.float16)}


def half_reshaped(name: str, array: Array) -> Stored:
    nodes = [node("Cast", [f"{name}.h"], f"{name}.c", to=1), node("Reshape", [f"{name}.c", f"{name}.s"], name)]
    return nodes, {f"{name}.h": array[:, None].astype(np.float16), f"{name}.s": np.array(array.shape)}


def bytes_scaled(name: str, array: Array) -> Stored:
    """Return int8 with a scale for each entry along the last axis."""
    scale = (np.abs(array).max(axis=tuple(range(array.ndim - 1)), keepdims=True) + 1e-3) / 127
    nodes = [node("Cast", [f"{name}.q"], f"{name}.c", to=1), node("Mul", [f"{name}.c", f"{name}.s"], name)]
    return nodes, {f"{name}.q": np.rint(array / scale).astype(np.int8), f"{name}.s": scale.astype(np.float32)}


def masked(name: str, array: Array) -> Stored:
    mask = (array != 0).astype(np.float32)
    random = np.random.default_rng(array.size).standard_normal(array.shape)
    return [node("Mul", [f"{name}.w", f"{name}.m"], name)], {
        f"{name}.w": np.where(mask, array, random).astype(np.float32),
        f"{name}.m": mask,
    }


def half_in_two(name: str, array: Array) -> Stored:
    cut = array.shape[0] // 2
    nodes = [node("Concat", [f"{name}.a", f"{name}.b"], f"{name}.c", axis=0), node("Cast", [f"{name}.c"], name, to=1)]
    return nodes, {f"{name}.a": array[:cut].astype(np.float16), f"{name}.b": array[cut:].astype(np.float16)}


FORMS = {
    form.__name__: form for form in (as_node, half, half_transposed, half_reshaped, bytes_scaled, masked, half_in_two)
}
