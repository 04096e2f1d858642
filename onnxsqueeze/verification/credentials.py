"""Is an evaluation in float64 to be believed that lies far from onnxruntime's?

It is if each node, given what it was given in onnxruntime, makes nearly the same of it; or if it does so of random
numbers: then both compute the same function, and it is rounding that sets them apart on what the node was given (the
variance of a channel that is constant, a probability near 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto

from onnxsqueeze.model.model import Model
from onnxsqueeze.verification.cases import Case
from onnxsqueeze.verification.difference import Tolerance, difference, is_floating
from onnxsqueeze.verification.locate import with_outputs
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.pieces import Pieces, widened_values
from onnxsqueeze.verification.selections import selects
from onnxsqueeze.verification.sessions import Session, Values

_AT_ONCE = 64  # tensors of onnxruntime's in memory


def untrusted(model: Model, pieces: Pieces, case: Case, largest: float) -> str:
    """Say at which node an evaluation is not believed; "" where it is.

    Args:
        model: the original. pieces: it in float64. case: what it is run on.
        largest: the deviation that counts as nearly the same, relative to a tensor's scale.

    Raises:
        RefusedError: when a node cannot be evaluated, or the time is over.
    """
    nodes = model.skeleton.graph.node
    for start in range(0, len(nodes), _AT_ONCE):
        part = list(nodes[start : start + _AT_ONCE])
        names = {name for node in part for name in (*node.input, *node.output) if name}
        tensors = _tensors(model, case, names)
        for index, node in enumerate(part, start):
            if not selects(node) and not _alike(pieces, index, node, model, tensors, largest):
                return f"{node.op_type} ({node.name or node.output[0]}) is not evaluated as onnxruntime does"
    return ""


def _tensors(model: Model, case: Case, names: set[str]) -> Values:
    """Return what onnxruntime makes of some tensors; those that follow from nothing are initializers."""
    made = [name for node in model.skeleton.graph.node for name in node.output if name in names]
    found = Session(Source(with_outputs(model, made)), optimized=False).run(case.feeds, made) if made else {}
    return {**case.feeds, **found}


def _alike(pieces: Pieces, index: int, node: NodeProto, model: Model, tensors: Values, largest: float) -> bool:
    given = {name: tensors[name] for name in node.input if name in tensors}
    stored = {name: model.initializers[name].array for name in node.input if name in model.initializers}
    if not all(name in given or name in stored for name in node.input if name):
        return True
    made = pieces.evaluate(index, widened_values({**given, **stored}))
    ours = {name: tensors[name] for name in node.output if name in tensors}
    if _close(ours, made, largest):
        return True
    random = {name: _random(value) for name, value in given.items()}
    inputs = {**random, **stored}
    alone = Session(Source(pieces.alone(node, inputs)), optimized=False).run(inputs)
    return _close(alone, pieces.evaluate(index, widened_values(inputs)), largest)


def _random(value: Any) -> Any:
    """Return normal numbers in the place of floating-point ones, the same at each call."""
    if not isinstance(value, np.ndarray) or not is_floating(value) or value.size == 0:
        return value
    numbers = np.asarray(np.random.default_rng(0).standard_normal(value.shape))
    return numbers.astype(value.dtype)


def _close(ours: Values, theirs: Values, largest: float) -> bool:
    found = [difference(ours[name], theirs[name]) for name in ours if name in theirs]
    return all(one.exact or Tolerance(largest).allows(one, one.scale) for one in found)
