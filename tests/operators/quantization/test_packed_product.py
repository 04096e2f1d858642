"""MatMulNBits: rows and whole blocks leave, whatever the codes and zero points are packed in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import MICROSOFT, outputs

Array = npt.NDArray[Any]
BLOCK = 16


def pack(codes: Array, bits: int) -> Array:
    """Return codes [.., n] as bytes, the first one in the lowest bits."""
    each = 8 // bits
    padded = np.zeros((*codes.shape[:-1], -(-codes.shape[-1] // each) * each), np.int64)
    padded[..., : codes.shape[-1]] = codes
    grouped = padded.reshape(*codes.shape[:-1], -1, each)
    return (grouped * (1 << np.arange(0, 8, bits))).sum(-1).astype(np.uint8)


class Packed:
    """Two such layers with an activation between them."""

    def __init__(self, bits: int, zeros: str, flat: bool) -> None:
        self.bits, self.zeros, self.flat = bits, zeros, flat
        self.random = np.random.default_rng(bits)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, Array] = {}

    def store(self, array: Array) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def layer(
        self, x: str, rows: int, columns: int, zero_rows: Any = (), zero_columns: Any = (), bias: Any = None
    ) -> str:
        count = -(-columns // BLOCK)
        middle, top = 1 << (self.bits - 1), 1 << self.bits
        zeros = self.random.integers(0, top, (rows, count)) if self.zeros else np.full((rows, count), middle)
        codes = self.random.integers(0, top, (rows, count, BLOCK))
        codes[codes == zeros[:, :, None]] ^= 1
        at = codes.reshape(rows, -1)
        full = np.repeat(zeros, BLOCK, 1)
        at[list(zero_rows)] = full[list(zero_rows)]
        at[:, list(zero_columns)] = full[:, list(zero_columns)]
        scales = self.random.uniform(0.01, 0.02, (rows, count)).astype("f")
        inputs = [x, self.store(pack(codes, self.bits)), self.store(scales.reshape(-1) if self.flat else scales)]
        if self.zeros == "codes":
            packed = pack(zeros, self.bits)
            inputs.append(self.store(packed.reshape(-1) if self.flat else packed))
        elif self.zeros:
            inputs.append(self.store(zeros.astype("f")))
        if bias is not None:
            inputs += [""] * (5 - len(inputs)) + [self.store(np.asarray(bias, "f"))]
        name = f"y{len(self.nodes)}"
        given = {"K": columns, "N": rows, "bits": self.bits, "block_size": BLOCK}
        self.nodes.append(helper.make_node("MatMulNBits", inputs, [name], name=name, domain=MICROSOFT, **given))
        return name

    def model(self, y: str, columns: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "packed",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, columns])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 3, None])],
            [numpy_helper.from_array(array, name) for name, array in self.arrays.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


CASES = [(4, "", True), (4, "", False), (4, "codes", True), (4, "codes", False), (8, "", False), (4, "numbers", False)]


@pytest.mark.parametrize(("bits", "zeros", "flat"), CASES)
@pytest.mark.parametrize("columns", [48, 40])
def test_rows_and_blocks(bits: int, zeros: str, flat: bool, columns: int) -> None:
    """Of 70 units 20 are zero or constant; a block of 16 and two more are not read: the two stay."""
    net = Packed(bits, zeros, flat)
    bias = np.zeros(70)
    bias[60:] = 0.7
    hidden = net.layer("x", 70, columns, range(48, 70), bias=bias)
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    y = net.layer("h", 24, 70, zero_columns=[*range(16, 32), 33, 34])
    model = net.model(y, columns)
    with files_of_any_length():
        result = sq.minimize(model, round_to=1)
    given = [
        tuple(helper.get_attribute_value(a) for a in node.attribute if a.name in ("K", "N"))
        for node in result.model.graph.node
        if node.op_type == "MatMulNBits"
    ]
    assert sorted(map(sorted, given)) == sorted(map(sorted, [(columns, 32), (32, 24)]))
    x = np.random.default_rng(5).standard_normal((2, 3, columns)).astype("f")
    before, after = (outputs(each, {"x": x})[0] for each in (model, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    (first, _) = result.report.layers
    assert first.macs_before == 3 * 70 * 48  # a block that is not full is multiplied whole
    assert first.sparsity == pytest.approx(22 / 70)
