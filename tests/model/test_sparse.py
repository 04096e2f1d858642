"""Sparse initializers are weights like any other, and are written dense or sparse, whichever is smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.errors import InvalidModelError
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.saving import encoded_size, save
from tests.support.planted.checks import deviation, run

Array = npt.NDArray[Any]


def sparse(name: str, array: Array, linear: bool = True) -> onnx.SparseTensorProto:
    places = np.flatnonzero(array)
    values = numpy_helper.from_array(array.ravel()[places], name)
    indices = places if linear else np.argwhere(array)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices, f"{name}.at"), list(array.shape))


def network(density: float, linear: bool = True, stored: bool = True) -> onnx.ModelProto:
    """Return two layers, 15 of 40 hidden units dead; the first weight is sparse."""
    random = np.random.default_rng(1)
    weight, other = (random.standard_normal(shape).astype(np.float32) for shape in ((48, 40), (40, 8)))
    weight[random.random(weight.shape) > density] = 0
    weight[0], weight[:, 0], weight[:, 25:] = 1, 1, 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("x", 48), ("y", 8))]
    dense = [numpy_helper.from_array(other, "v"), *([] if stored else [numpy_helper.from_array(weight, "w")])]
    tensors = [sparse("w", weight, linear)] if stored else []
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], dense, sparse_initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("density", [0.1, 0.9])
def test_they_lose_channels_and_take_the_smaller_form(density: float, linear: bool) -> None:
    model = network(density, linear)
    minimized = sq.minimize(model, round_to=1).model
    forms = [tuple(tensor.dims) for tensor in minimized.graph.sparse_initializer]
    dense = {tensor.name: tuple(tensor.dims) for tensor in minimized.graph.initializer}
    assert forms == ([(48, 25)] if density < 0.3 else [])
    assert dense == {"v": (25, 8), **({} if forms else {"w": (48, 25)})}
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 48)).astype(np.float32)}
    assert deviation(run(network(density, stored=False), feeds), run(minimized, feeds)) < 1e-5
    assert len(minimized.SerializeToString()) < len(model.SerializeToString())
    onnx.checker.check_model(minimized)


@pytest.mark.parametrize("linear", [True, False])
def test_what_nothing_changes_comes_back_to_the_byte(linear: bool, tmp_path: Path) -> None:
    model, path = network(0.1, linear), tmp_path / "m.onnx"
    onnx.save(model, path)
    for source in (model, path):
        loaded = load(source)
        assert to_proto(loaded).SerializeToString() == model.SerializeToString()
        assert save(loaded, tmp_path / "out.onnx") == encoded_size(loaded)
        assert onnx.load(tmp_path / "out.onnx") == model
        expected = {t.name: numpy_helper.to_array(t) for t in network(0.1, stored=False).graph.initializer}
        np.testing.assert_array_equal(loaded.initializers["w"].array, expected["w"])


def test_damaged_ones_are_refused() -> None:
    model = network(0.1)
    tensor = model.graph.sparse_initializer[0]
    tensor.indices.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor.indices) + 48 * 40, "w.at"))
    with pytest.raises(InvalidModelError, match="'w' cannot be read: its indices do not fit"):
        load(model, check=False)
    model = network(0.1)
    model.graph.sparse_initializer[0].dims[:] = [1 << 40, 1 << 20]
    with pytest.raises(InvalidModelError, match="'w' cannot be read"):
        load(model, check=False)
    model = network(0.1)
    model.graph.sparse_initializer[0].values.name = "v"
    with pytest.raises(InvalidModelError, match="two of its initializers are named 'v'"):
        load(model, check=False)
