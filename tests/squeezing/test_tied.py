"""A table by which a layer multiplies is repaired for both: for the layer, and for those that look its rows up."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.gathering import gathered
from onnxsqueeze.squeezing.least_squares import Problem, repaired, solved
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.squeezing.running import Runner
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.squeezing.shared_readers import TiedReader
from onnxsqueeze.units.discovery import units_of

ROWS, WIDTH = 24, 12
IDS = np.random.default_rng(3).geometric(0.15, size=(600, 5)) % ROWS  # some rows are looked up often, some hardly ever
PART = Part({"ids": IDS}, np.arange(600), {}, 100)


def language_model(numbers: str = "ids", outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    """Return a residual layer between a table and the product by its transpose.

    Args:
        numbers: by what the table is looked up. outputs: of the graph.
    """
    random = np.random.default_rng(0)
    basis = random.normal(size=(8, WIDTH))  # twelve channels that eight would do for, but for a little
    weights = {
        "table": random.normal(size=(ROWS, 8)) @ basis / 3 + 0.1 * random.normal(size=(ROWS, WIDTH)),
        "w1": random.normal(size=(WIDTH, 20)) / 3,
        "b1": random.normal(size=20),
        "w2": random.normal(size=(20, 8)) @ basis / 9,
    }
    nodes = [
        helper.make_node("Gather", ["table", numbers], ["e"]),
        helper.make_node("MatMul", ["e", "w1"], ["h"]),
        helper.make_node("Add", ["h", "b1"], ["i"]),
        helper.make_node("Relu", ["i"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["d"]),
        helper.make_node("Add", ["e", "d"], ["s"]),
        helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["s", "head"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    if numbers != "ids":
        initializers.append(numpy_helper.from_array(IDS[:7], numbers))
    given = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 5])]
    shapes = {"y": ["n", 5, ROWS], "table": [ROWS, WIDTH]}
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs]
    graph = helper.make_graph(nodes, "g", given, found, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tied() -> tuple[TiedReader, Problem, Problem]:
    """Return the head and its problem, on samples that are fitted and on others."""
    source = with_biases(load(language_model()))
    (reader,) = [each for each in readers_of(source, units_of(source)) if isinstance(each, TiedReader)]
    found = gathered(source, [reader], PART, 0)[reader.name]
    return reader, found.fitted[0], found.checked[0]


def test_lookups_are_counted() -> None:
    reader, fitted, checked = tied()
    counts = np.bincount(IDS.ravel(), minlength=ROWS)
    for problem in (fitted, checked):
        np.testing.assert_array_equal(problem.lookups, counts)
    np.testing.assert_array_equal(reader.lookups({"ids": IDS - ROWS}), counts)


def test_each_row_is_the_best_for_the_layer_and_for_those_that_look_it_up() -> None:
    _, problem, _ = tied()
    kept = np.array([0, 2, 3, 5, 7, 8, 11])
    weight, _ = solved(problem, kept, 0.0)
    assert not weight[:, np.setdiff1d(np.arange(WIDTH), kept)].any()
    hessian = problem.moments.products / problem.moments.count
    factor = np.linalg.cholesky(hessian)
    outputs = np.trace(problem.weight @ hessian @ problem.weight.T)
    shares = (np.bincount(IDS.ravel(), minlength=ROWS) + 1) / (IDS.size + ROWS)
    given = shares @ (problem.weight**2).sum(axis=1)
    for row, share in enumerate(shares):
        pull = np.sqrt(share * outputs / given)
        columns = np.concatenate([factor.T[:, kept], pull * np.eye(kept.size)])
        wanted = np.concatenate([factor.T @ problem.weight[row], pull * problem.weight[row, kept]])
        np.testing.assert_allclose(weight[row, kept], np.linalg.lstsq(columns, wanted, rcond=None)[0], rtol=1e-6)


def test_a_row_that_is_looked_up_often_stays_nearer_to_what_it_was() -> None:
    _, fitted, checked = tied()
    stays = np.ones((ROWS, WIDTH), dtype=bool)
    stays[:, :3] = False
    found = repaired(fitted, checked, stays)
    assert found is not None and found.error < found.unrepaired and not found.weight[~stays].any()
    moved = np.linalg.norm((found.weight - fitted.weight)[:, 3:], axis=1)
    free = repaired(*(Problem(each.weight, each.bias, each.moments) for each in (fitted, checked)), stays)
    assert free is not None
    alone = np.linalg.norm((free.weight - fitted.weight)[:, 3:], axis=1)
    often = np.argsort(fitted.lookups)
    assert (moved / alone)[often[-4:]].max() < (moved / alone)[often[:4]].min()


def test_a_squeeze_loses_less_than_without_the_repair() -> None:
    data, options = {"ids": IDS}, {"ratio": 1.25, "only": ["e"]}
    small = onnxsqueeze.squeeze(language_model(), data, **options)
    with patch("onnxsqueeze.squeezing.readers.tied_reader", lambda *_: None):
        plain = onnxsqueeze.squeeze(language_model(), data, **options)
    assert small.report.chosen.weights == plain.report.chosen.weights
    assert small.report.chosen.deviation < 0.8 * plain.report.chosen.deviation
    table = next(each for each in small.model.graph.initializer if each.name == "table")
    assert table.dims[0] == ROWS and table.dims[1] < WIDTH  # one table still, read by both
    assert list(next(iter(Runner(small.minimized, ["y"]).run(PART)))["y"].shape) == [100, 5, ROWS]


@pytest.mark.parametrize("source", [language_model("numbers"), language_model(outputs=("y", "table"))])
def test_a_table_with_constant_lookups_or_other_readers_stays_as_it_is(source: ModelProto) -> None:
    model = with_biases(load(source))
    assert not any("table" in reader.stored for reader in readers_of(model, units_of(model)))
