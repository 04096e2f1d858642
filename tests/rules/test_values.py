"""What rules say of a node alone, against onnx's own node tests: values of constants, and shapes."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxsqueeze.abstract.symbolic import Undecided
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.registry import rule_for, rules
from tests.end_to_end.backend.cases import Case, load_cases
from tests.rules.microsoft_nodes import MICROSOFT, microsoft_cases

OPERATORS = sorted({rule.op for rule in rules() if not rule.domain})
ALL = [*OPERATORS, *sorted({f"{MICROSOFT}.{case.model.graph.node[0].op_type}" for case in microsoft_cases()})]
"""With those of com.microsoft, of which some have no rule of their own and are lowered."""


@cache
def by_operator() -> dict[str, list[Case]]:
    """All tests of one node by its operator."""
    found: dict[str, list[Case]] = defaultdict(list)
    for case in load_cases().values():
        if case.suite == "node" and len(case.model.graph.node) == 1:
            found[case.model.graph.node[0].op_type].append(case)
    for case in microsoft_cases():
        found[f"{MICROSOFT}.{case.model.graph.node[0].op_type}"].append(case)
    return found


def test_there_are_cases() -> None:
    """So that none of the others passes for want of some."""
    assert sum(len(by_operator()[op]) for op in OPERATORS) > 1100
    assert sum(bool(by_operator()[op]) for op in OPERATORS) > 120


def expected(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays that a test expects, by name."""
    for value, array in zip(case.model.graph.output, case.runs[0].expected, strict=True):
        if isinstance(array, np.ndarray):
            yield value.name, array


def alike(one: np.ndarray, other: np.ndarray, case: Case) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind in "OSU":
        return one.tolist() == other.tolist()
    kind = np.complex128 if one.dtype.kind == "c" else np.float64
    return np.allclose(one.astype(kind), other.astype(kind), rtol=case.rtol, atol=case.atol, equal_nan=True)


@pytest.mark.parametrize("op", ALL)
def test_values_of_constants(op: str) -> None:
    """Where a rule computes a node it does so right, or says that it cannot."""
    wrong = []
    for case in by_operator()[op]:
        feeds = case.runs[0].feeds
        nodes = analyse(load(case.model)).graph.nodes
        if len(nodes) != 1 or nodes[0].op != op.rpartition(".")[2]:  # a Constant is a value, and no node
            continue
        node = nodes[0]
        evaluate, inputs = rule_for(node).evaluate, [feeds.get(name) for name in node.inputs]
        if evaluate is None or any(isinstance(given, list) for given in inputs):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = dict(zip(node.outputs, map(np.asarray, evaluate(node, inputs)), strict=False))
        except Undecided:
            continue
        wrong += [case.name for name, array in expected(case) if name in found and not alike(found[name], array, case)]
    assert not wrong


@pytest.mark.parametrize(
    ("value", "target", "found"),
    [
        ([1.7, -0.5, 255.9], np.uint8, [1, 0, 255]),
        ([256.0], np.uint8, None),
        ([-1.0], np.uint8, None),
        ([np.nan], np.int32, None),
        ([3e9], np.int32, None),
        ([2.0**63], np.int64, None),
        ([300, -1], np.uint8, [44, 255]),
        ([7, -8], ml_dtypes.int4, [7, -8]),
        ([8], ml_dtypes.int4, None),
        ([447.0, -448.0], ml_dtypes.float8_e4m3fn, [448, -448]),
        ([449.0], ml_dtypes.float8_e4m3fn, None),
        ([np.inf], ml_dtypes.float8_e5m2, [np.inf]),
        ([60000.0], ml_dtypes.float8_e5m2, None),
        ([4.0, 0.5], ml_dtypes.float8_e8m0fnu, [4, 0.5]),
        ([3.0], ml_dtypes.float8_e8m0fnu, None),
        ([1e30, 0.1], np.float16, [np.inf, np.float16(0.1)]),
        ([2, 0], np.bool_, [True, False]),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_casts(value: list[float], target: type, found: list[float] | None) -> None:
    """What a type does not hold depends on the runtime, or on attributes: that stays in the file."""
    array = np.asarray(value, np.float32 if isinstance(value[0], float) else np.int32)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=kind), helper.make_node("CastLike", ["x", "t"], ["z"])],
        "g",
        [],
        [helper.make_tensor_value_info(name, kind, array.shape) for name in ("y", "z")],
        [numpy_helper.from_array(array, "x"), numpy_helper.from_array(np.zeros(1, target), "t")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)
    values = analyse(load(model)).context.values
    for name in ("y", "z"):
        if found is None:
            assert name not in values
        else:
            assert values[name].dtype == target and values[name].astype(np.float64).tolist() == list(found)


@pytest.mark.parametrize("op", ALL)
def test_shapes(op: str) -> None:
    """What is known of a shape is so."""
    wrong = []
    for case in by_operator()[op]:
        shapes = analyse(load(case.model)).context.shapes
        for name, array in expected(case):
            shape = shapes.get(name, array.shape)
            known = [(size, length) for size, length in zip(shape, array.shape, strict=False) if isinstance(size, int)]
            if len(shape) != array.ndim or any(size != length for size, length in known):
                wrong.append(case.name)
    assert not wrong


def bounded(case: Case, axis: int, stored: bool) -> onnx.ModelProto:
    """Return a test's model whose inputs cannot leave the range that they have, by place along an axis.

    All but the first are initializers if they are to be ``stored``.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inner, constants = {}, []
    for number, (name, value) in enumerate(case.runs[0].feeds.items()):
        if number and stored and isinstance(value, np.ndarray):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
            constants.append(name)
        elif isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64) and value.size and value.ndim:
            others = tuple(place for place in range(value.ndim) if place != axis % value.ndim)
            ends = value.min(axis=others, keepdims=True), value.max(axis=others, keepdims=True)
            if np.isfinite(ends).all():
                names = [f"{name}.{end}" for end in ("least", "most")]
                model.graph.initializer.extend(map(numpy_helper.from_array, ends, names))
                inner[name] = [
                    helper.make_node("Max", [name, names[0]], [f"{name}.from"]),
                    helper.make_node("Min", [f"{name}.from", names[1]], [f"{name}.to"]),
                ]
    nodes = [node for pair in inner.values() for node in pair]
    for node in case.model.graph.node:
        nodes.append(onnx.NodeProto())
        nodes[-1].CopyFrom(node)
        nodes[-1].input[:] = [f"{name}.to" if name in inner else name for name in node.input]
    inputs = [value for value in case.model.graph.input if value.name not in constants]
    for given, kept in ((model.graph.node, nodes), (model.graph.input, inputs)):
        del given[:]
        given.extend(kept)
    return model


@pytest.mark.parametrize("op", ALL)
@pytest.mark.parametrize(("axis", "stored"), [(1, False), (1, True), (-1, True)])
def test_intervals(axis: int, stored: bool, op: str) -> None:
    """An output lies where its interval says, of inputs of which that is known by place along an axis."""
    wrong = []
    for case in by_operator()[op]:
        old = any(not entry.domain and entry.version < 13 for entry in case.model.opset_import)  # Max of float64
        if old or not any(not entry.domain for entry in case.model.opset_import):
            continue
        context = analyse(load(bounded(case, axis, stored))).context
        for name, array in expected(case):
            if array.dtype.kind not in "fiub" or not context.is_activation(name):
                continue
            interval = context.interval(name)
            pairs = zip(interval.lower.shape, array.shape, strict=True)
            slack = case.atol + case.rtol * np.abs(array.astype(np.float64))
            if (
                any(own not in (1, length) for own, length in pairs)
                or not (np.isnan(array) | ((array >= interval.lower - slack) & (array <= interval.upper + slack))).all()
            ):
                wrong.append(case.name)
    assert not wrong
