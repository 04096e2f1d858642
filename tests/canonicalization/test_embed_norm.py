"""EmbedLayerNormalization, as onnxruntime's optimizer writes it, loses channels of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.planted.checks import deviation, minimize, run, weights

DOMAIN = "com.microsoft"
WIDTH, ROWS, PLACES, OUT = 16, 11, 9, 3


def network(
    gone: int,
    *,
    opset: int = 17,
    segments: bool = True,
    places: bool = False,
    mask: bool = False,
    constants: float = 0.0,
    outputs: Sequence[str] = ("y",),
    shift: bool = True,
    tokens: int | str = "S",
) -> onnx.ModelProto:
    """Return a dense layer of what is looked up; ``gone`` channels of the stream, at random places, are constant.

    ``outputs`` are those of the whole: ``y``, and of the node ``counts`` and ``sum``.
    """
    random = np.random.default_rng((gone, segments, places))
    chosen = random.permutation(WIDTH)[:gone]
    stored: dict[str, npt.NDArray[Any]] = {}

    def drawn(name: str, *shape: int) -> str:
        stored[name] = random.uniform(0.3, 1.5, shape) * random.choice([-1, 1], shape)
        return name

    tables = [drawn(name, rows, WIDTH) for name, rows in (("words", ROWS), ("spots", PLACES), ("kinds", 2))]
    for name in tables:
        stored[name][:, chosen] = constants
    inputs = [
        "ids", "segments" if segments else "", "words", "spots", "kinds" if segments else "",
        drawn("gamma", WIDTH), drawn("beta", WIDTH), "mask" if mask else "", "places" if places else "",
    ]  # fmt: skip
    if not shift:
        stored["beta"][:] = 0
    if not segments:
        del stored["kinds"]
    while not inputs[-1]:
        inputs.pop()
    nodes = [
        helper.make_node("EmbedLayerNormalization", inputs, ["normed", "counts", "sum"], domain=DOMAIN, epsilon=1e-5),
        helper.make_node("MatMul", ["normed", drawn("head", WIDTH, OUT)], ["y"]),
    ]
    given = [name for name in ("ids", "segments", "mask", "places") if name in inputs]
    ins = [helper.make_tensor_value_info(name, TensorProto.INT32, ["N", tokens]) for name in given]
    kinds = {"counts": TensorProto.INT32}
    shapes = {"counts": ["N"], "y": ["N", tokens, OUT], "sum": ["N", tokens, WIDTH]}
    outs = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shapes[name]) for name in outputs]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", ins, outs, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def assert_equal(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    """Assert that both compute the same, optimized or not, at several sizes."""
    random = np.random.default_rng(7)
    limits = {"ids": ROWS, "segments": 2, "mask": 2, "places": PLACES}
    static = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    for batch, tokens in ((1, static or 5), (3, static or PLACES)):
        feeds = {
            value.name: random.integers(0, limits[value.name], (batch, tokens)).astype(np.int32)
            for value in model.graph.input
        }
        for optimized in (False, True):
            assert deviation(run(model, feeds, optimized), run(other, feeds, optimized)) < 2e-5


def assert_small(model: onnx.ModelProto, gone: int, places: int = PLACES) -> None:
    """Assert that all constants but one leave, and that nothing changes."""
    result = minimize(model)
    left = WIDTH - gone + 1
    rows = [length for name, length in (("words", ROWS), ("spots", places), ("kinds", 2)) if name in names(model)]
    found = [shape for shape in weights(result.model) if sum(size > 1 for size in shape) > 1]
    assert found == sorted([*((length, left) for length in rows), (left, OUT)]), dict(result.report.stayed)
    assert_equal(model, result.model)


def names(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("opset", [10, 12, 14, 17, 18, 23])
def test_opsets(opset: int) -> None:
    assert_small(network(6, opset=opset), 6)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_forms(segments: bool, places: bool, mask: bool) -> None:
    """With the counts of the mask as an output, which stay as they are."""
    assert_small(network(5, segments=segments, places=places, mask=mask, outputs=("y", "counts")), 5)


@pytest.mark.parametrize("constants", [0.0, 0.4])
@pytest.mark.parametrize("tokens", ["S", 4])
def test_constants(constants: float, tokens: int | str) -> None:
    """Of a length that is known, only the places that are read stay."""
    model = network(6, constants=constants, tokens=tokens, mask=True)
    assert_small(model, 6, tokens if isinstance(tokens, int) else PLACES)


def test_the_sum_as_an_output_holds_the_tables() -> None:
    model = network(6, outputs=("y", "sum"))
    result = minimize(model, narrowing=False)
    assert weights(result.model) == weights(model)
    assert_equal(model, result.model)


@pytest.mark.parametrize("outputs", [("y",), ("y", "counts", "sum")])
@pytest.mark.parametrize("segments", [False, True])
def test_nothing_leaves(segments: bool, outputs: Sequence[str]) -> None:
    """The model is as it was."""
    model = network(0, segments=segments, outputs=outputs, mask=True)
    assert minimize(model).model.graph.node == model.graph.node
