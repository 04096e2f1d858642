"""Which axis of the output an axis of the input goes on along: what is added along one is added along the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.registry import rules
from tests.support.planted.checks import run

REDUCED = [f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Min", "Prod", "Sum", "SumSquare")]
IMAGE, THIN = (2, 3, 4, 5), (2, 1, 3, 1)

COPIES: list[tuple[str, Sequence[int], dict[str, Any]]] = [
    ("y = Identity(x)", IMAGE, {}),
    ("y = Dropout(x)", IMAGE, {}),
    ("y = Slice(x, s, e, a)", IMAGE, {"s": [1], "e": [3], "a": [2]}),
    ("y = Slice(x, s, e, a, t)", IMAGE, {"s": [-1, 0], "e": [-9, 5], "a": [1, -1], "t": [-1, 2]}),
    ("y, z = Split <axis = 1> (x, s)", IMAGE, {"s": [1, 2]}),
    ("y = Compress <axis = 1> (x, c)", IMAGE, {"c": np.array([True, False, True])}),
    ("y = Gather <axis = 1> (x, i)", IMAGE, {"i": [[0, 2], [1, 1]]}),
    ("y = Gather <axis = 2> (x, i)", IMAGE, {"i": np.array(3)}),
    ("y = GatherND (x, i)", IMAGE, {"i": [[[0, 1]], [[1, 2]], [[1, 0]]]}),
    ("y = Transpose <perm = [1, 3, 0, 2]> (x)", IMAGE, {}),
    ("y = Reshape(x, s)", IMAGE, {"s": [6, 4, 5]}),
    ("y = Reshape(x, s)", IMAGE, {"s": [2, 1, 3, -1]}),
    ("y = Reshape(x, s)", IMAGE, {"s": [0, 12, 5]}),
    ("y = Flatten <axis = 1> (x)", IMAGE, {}),
    ("y = Flatten <axis = -1> (x)", IMAGE, {}),
    ("y = Squeeze(x, a)", THIN, {"a": [1]}),
    ("y = Unsqueeze(x, a)", IMAGE, {"a": [1, -1]}),
    ("y = Expand(x, s)", THIN, {"s": [7, 2, 4, 3, 5]}),
    ("y = Tile(x, s)", IMAGE, {"s": [1, 2, 1, 1]}),
    ("y = Pad(x, s)", IMAGE, {"s": [0] * 8}),
    ("y = Pad(x, s)", IMAGE, {"s": [0, 0, 1, 0, 0, 0, 0, 0]}),
    ("y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, n)", IMAGE, {"n": [2, 3]}),
    ("y = ReduceMean <keepdims = 0> (x, a)", IMAGE, {"a": [1, -2]}),
    ("y = ReduceMean (x, a)", IMAGE, {"a": [0]}),
    ("p = Slice(x, s, e, a)  q = Slice(x, e, l, a)  y = Concat <axis = 2> (q, p)", IMAGE,
     {"s": [0], "e": [1], "l": [4], "a": [2]}),
    ("p = Slice(x, s, e, a)  q = Slice(r, e, l, a)  y = Concat <axis = 2> (p, q)", IMAGE,
     {"s": [0], "e": [1], "l": [4], "a": [2]}),
]  # fmt: skip
"""Operators that copy, or average over places: they carry all that they can."""
OTHERS: list[tuple[str, Sequence[int], dict[str, Any]]] = [
    ("p = Slice(x, s, e, a)  q = Transpose <perm = [0, 2, 1, 3]> (p)  y = Concat <axis = 3> (p, q)", (2, 3, 3, 4),
     {"s": [0], "e": [2], "a": [3]}),
    *((f"y = {op}(x, a)", IMAGE, {"a": [2]}) for op in REDUCED),
    ("y = AveragePool <kernel_shape = [2, 2]> (x)", IMAGE, {}),
    ("y = AveragePool <kernel_shape = [2, 2], pads = [1, 0, 1, 0]> (x)", IMAGE, {}),
    ("y = AveragePool <kernel_shape = [2, 2], pads = [1, 0, 1, 0], count_include_pad = 1> (x)", IMAGE, {}),
    ("y = GlobalAveragePool(x)", IMAGE, {}),
]  # fmt: skip
"""Those that need not say all."""


def model_of(body: str, shape: Sequence[int], constants: dict[str, Any]) -> onnx.ModelProto:
    """Return a model of some nodes, of float32 inputs of a shape and of constants, which are int64 or bool."""
    dims = ",".join(map(str, shape))
    outputs = "float y, float z" if "y, z" in body else "float y"
    other = f", float[{dims}] r" if "(r" in body else ""
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 18]> g (float[{dims}] x{other}) => ({outputs}) {{ {body} }}'
    )
    for name, value in constants.items():
        array = np.asarray(value)
        model.graph.initializer.append(
            numpy_helper.from_array(array if array.dtype == bool else array.astype(np.int64), name)
        )
    return model


def goes_on(model: onnx.ModelProto, shape: Sequence[int], axis: int, onward: int) -> bool:
    """Whether a vector that is added along an axis of ``x`` is added along an axis of all outputs, and not else."""
    random = np.random.default_rng(0)
    feeds = {each.name: random.uniform(0.5, 2.0, shape).astype(np.float32) for each in model.graph.input}
    added = random.uniform(1.0, 3.0, shape[axis])
    along = [1] * len(shape)
    along[axis] = -1
    after = run(model, {**feeds, "x": feeds["x"] + added.reshape(along).astype(np.float32)})
    for old, new in zip(run(model, feeds), after, strict=True):
        wanted = [1] * old.ndim
        wanted[onward] = -1
        if old.shape[onward] != shape[axis] or not np.allclose(new - old, added.reshape(wanted), atol=1e-4):
            return False
    return True


@pytest.mark.parametrize("complete", [True, False])
def test_axes_go_on_where_rules_say(complete: bool) -> None:
    """Where an axis goes on, a rule that copies says so; what it says is so; of other inputs it says nothing."""
    for body, shape, constants in COPIES if complete else OTHERS:
        model = model_of(body, shape, constants)
        analysis = analyse(load(model))
        node, rank = analysis.graph.nodes[-1], analysis.context.rank("y")
        carries = analysis.context.rules[node.index].carries
        assert carries is not None, body
        for axis in range(len(shape)):
            said = carries(node, analysis.context, 0, axis)
            possible = [onward for onward in range(rank) if goes_on(model, shape, axis, onward)]
            owed = complete and shape[axis] > 1 and possible  # an axis of one place goes on along any other such
            assert said in possible or (said is None and not owed), (body, axis, said, possible)
            if node.op != "Concat":
                assert all(carries(node, analysis.context, place, axis) is None for place in range(1, len(node.inputs)))


def test_all_rules_that_carry_are_here() -> None:
    named = {word for body, *_ in (*COPIES, *OTHERS) for word in body.replace("(", " ").split()}
    assert {rule.op for rule in rules() if rule.carries is not None} - named == {"RemovePadding"}
