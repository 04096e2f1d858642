"""GatherBlockQuantized: whole blocks of columns leave, whatever the codes and zero points are packed in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.training.module import from_onnx
from tests.operators.quantization.test_packed_product import pack
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import MICROSOFT, outputs

Array = npt.NDArray[Any]
BLOCK, ROWS, COLUMNS, OUT = 16, 20, 72, 5  # the last block is not full
EMPTY, DEAD = range(16, 32), range(48, 64)
FORMS = {
    "int4": (ml_dtypes.int4, 4, False),
    "uint4": (ml_dtypes.uint4, 4, True),
    "uint4 without zero points": (ml_dtypes.uint4, 4, False),
    "two in a byte": (np.uint8, 4, True),
    "two in a byte, without zero points": (np.uint8, 4, False),
    "bytes": (np.uint8, 8, True),
    "bytes without zero points": (np.uint8, 8, False),
}


def network(form: str) -> onnx.ModelProto:
    """Return a lookup and a layer behind it: a block is zero, nothing reads another, and one column each besides."""
    dtype, bits, zeros = FORMS[form]
    random = np.random.default_rng(0)
    low, high = (-8, 8) if dtype is ml_dtypes.int4 else (0, 1 << bits)
    blocks = -(-COLUMNS // BLOCK)
    points = (
        random.integers(low, high, (ROWS, blocks))
        if zeros
        else np.full((ROWS, blocks), 1 << (bits - 1) if dtype is np.uint8 else 0)
    )
    codes = random.integers(low, high, (ROWS, COLUMNS))
    spread = np.repeat(points, BLOCK, axis=1)[:, :COLUMNS]
    for columns in (EMPTY, [3]):
        codes[:, list(columns)] = spread[:, list(columns)]
    packed = dtype is np.uint8 and bits < 8
    arrays = {
        "table": pack(codes, bits) if packed else codes.astype(dtype),
        "scales": random.uniform(0.01, 0.1, (ROWS, blocks)).astype("f"),
        **({"points": pack(points, bits) if packed else points.astype(dtype)} if zeros else {}),
        "weight": random.standard_normal((COLUMNS, OUT)).astype("f"),
    }
    arrays["weight"][[*DEAD, 40]] = 0
    names = ["table", "ids", "scales", *(["points"] if zeros else [])]
    given = {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": bits}
    nodes = [
        helper.make_node("GatherBlockQuantized", names, ["e"], "look", domain=MICROSOFT, **given),
        helper.make_node("MatMul", ["e", "weight"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "S"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "S", OUT])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("form", FORMS)
def test_blocks_leave(form: str) -> None:
    model = network(form)
    with files_of_any_length():
        result = sq.minimize(model, round_to=1, verify=False)
    shapes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    left, each = COLUMNS - 2 * BLOCK, 2 if form.startswith("two") else 1
    assert shapes["table"] == [ROWS, left // each] and shapes["scales"] == [ROWS, 3]
    assert shapes.get("points", [ROWS, -(-3 // each)]) == [ROWS, -(-3 // each)]
    ids = np.random.default_rng(1).integers(0, ROWS, (3, 7))
    before, after = (outputs(one, {"ids": ids})[0] for one in (model, result.model))
    assert before.std() > 0.1
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert result.report.layers[0].weights_after == ROWS * left // each


@pytest.mark.parametrize("form", [form for form, (dtype, *_) in FORMS.items() if dtype is np.uint8])
def test_training_reads_the_same(form: str) -> None:
    model = network(form)
    ids = np.random.default_rng(2).integers(0, ROWS, (2, 3))
    with torch.no_grad():
        found = from_onnx(model)(torch.from_numpy(ids))
    found = found[0] if isinstance(found, tuple) else found
    np.testing.assert_allclose(found.numpy(), outputs(model, {"ids": ids})[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [ml_dtypes.int4, np.int8])
def test_blocks_of_a_table_that_is_decoded_leave(kind: Any) -> None:
    """DequantizeLinear in blocks along the columns, and Gather behind it."""
    model = network("int4")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    codes = numpy_helper.to_array(stored["table"]).astype(kind)
    stored["table"].CopyFrom(numpy_helper.from_array(codes, "table"))
    decoding = helper.make_node("DequantizeLinear", ["table", "scales"], ["real"], "decode", axis=1, block_size=BLOCK)
    lookup = helper.make_node("Gather", ["real", "ids"], ["e"], "look")
    nodes = [decoding, lookup, model.graph.node[1]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with files_of_any_length():
        result = sq.minimize(model, round_to=1, verify=False)
    shapes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    assert (shapes["table"], shapes["scales"]) == ([ROWS, COLUMNS - 2 * BLOCK], [ROWS, 3])
    ids = np.random.default_rng(1).integers(0, ROWS, (3, 7))
    before, after = (outputs(one, {"ids": ids})[0] for one in (model, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_other_axes_are_refused() -> None:
    model = network("int4")
    (axis,) = (attribute for attribute in model.graph.node[0].attribute if attribute.name == "quantize_axis")
    axis.i = 0
    result = sq.minimize(model, verify=False)
    assert result.report.weights_after == result.report.weights_before
