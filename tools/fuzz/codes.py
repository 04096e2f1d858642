"""Quantized forms of a network, written by onnxruntime's own tools: what files of codes hold, over any layers."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

Feeds = Sequence[dict[str, npt.NDArray[np.generic]]]
Form = Callable[[ModelProto, Feeds, np.random.Generator], ModelProto]
_BLOCK = 16  # the smallest that the operator takes: these networks are narrow
_WIDENED = 0.7  # of all products
_MIDDLE = 8  # what a code of four bits counts from where no zero points are given
_TYPES = (
    (QuantType.QUInt8, QuantType.QInt8),
    (QuantType.QUInt8, QuantType.QUInt8),
    (QuantType.QInt8, QuantType.QInt8),
)  # of data and of weights: those that runtimes have products for
_PAIRED = (QuantType.QInt8,)
"""Without VNNI, onnxruntime adds pairs of products by such weights in 16 bits, which saturate beyond 7 bits: then its
results depend on which products stand in a pair."""
_WARNINGS, _ERRORS = 2, 4  # of onnxruntime's own log


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    """The inputs of a graph, from which scales are taken."""

    def __init__(self, feeds: Feeds) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        return next(self._left, None)


def dynamic(model: ModelProto, feeds: Feeds, random: np.random.Generator) -> ModelProto:
    """Weights as codes; data are encoded with scales that the graph computes when it runs."""
    kind = QuantType.QInt8 if random.random() < 0.5 else QuantType.QUInt8
    with _written() as path:
        per_channel = random.random() < 0.3
        quantize_dynamic(model, path, per_channel=per_channel, weight_type=kind, reduce_range=kind in _PAIRED)
        return onnx.load(path)


def pairs(model: ModelProto, feeds: Feeds, random: np.random.Generator) -> ModelProto:
    """QuantizeLinear and DequantizeLinear around every operator."""
    return _static(model, feeds, random, QuantFormat.QDQ)


def on_codes(model: ModelProto, feeds: Feeds, random: np.random.Generator) -> ModelProto:
    """Operators on codes: QLinearConv, QLinearAdd, QGemm and so on."""
    return _static(model, feeds, random, QuantFormat.QOperator)


def _static(model: ModelProto, feeds: Feeds, random: np.random.Generator, form: QuantFormat) -> ModelProto:
    data, weights = _TYPES[int(random.integers(len(_TYPES)))]
    per_channel = bool(random.random() < 0.5)  # then a convolution gets weights of int8, whatever is asked for
    with _written() as path:
        quantize_static(
            model,
            path,
            _Samples(feeds),
            quant_format=form,
            per_channel=per_channel,
            activation_type=data,
            weight_type=weights,
            reduce_range=per_channel or weights in _PAIRED,
        )
        return onnx.load(path)


def blocks(model: ModelProto, feeds: Feeds, random: np.random.Generator) -> ModelProto:
    """Weights of products in four or eight bits, with a scale for each block: MatMulNBits."""
    return _in_blocks(model, 4 if random.random() < 0.7 else 8, bool(random.random() < 0.5))


def _in_blocks(model: ModelProto, bits: int, symmetric: bool) -> ModelProto:
    with _written():
        quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=_BLOCK, is_symmetric=symmetric)
        quantizer.process()
        coded: ModelProto = quantizer.model.model
        return coded


def blocks_in_an_order(model: ModelProto, feeds: Feeds, random: np.random.Generator) -> ModelProto:
    """The same of four bits, where columns of about one size share a scale wherever they lie: GPTQ's act-order."""
    _widen(model, random)
    coded = _in_blocks(model, 4, bool(random.random() < 0.5))
    tensors = {tensor.name: tensor for tensor in coded.graph.initializer}
    orders: dict[str, str] = {}
    for node in coded.graph.node:
        if node.op_type == "MatMulNBits" and node.input[1] not in orders:
            order = _put_into_order(node, tensors)
            orders[node.input[1]] = order.name
            coded.graph.initializer.append(order)
    for node in coded.graph.node:
        if node.op_type == "MatMulNBits":
            node.input.extend([*[""] * (4 - len(node.input)), orders[node.input[1]]])
    return coded


def _widen(model: ModelProto, random: np.random.Generator) -> None:
    """Put layers of more units than a block has, some of which nobody reads or are 0, in front of some products."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        weight = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and len(weight.dims) == 2 and random.random() < _WIDENED:
            width, stored = int(random.integers(_BLOCK + 1, 4 * _BLOCK)), numpy_helper.to_array(weight)
            inner, outer = (random.standard_normal(shape) for shape in ((len(stored), width), (width, stored.shape[1])))
            inner[:, random.random(width) < 0.1] = 0
            outer[random.random(width) < 0.4] = 0
            names = [f"{node.output[0]}.{part}" for part in ("inner", "outer", "sums", "units")]
            for name, array in zip(names, (inner / np.sqrt(len(stored)), outer / np.sqrt(width)), strict=False):
                model.graph.initializer.append(numpy_helper.from_array(array.astype(stored.dtype), name))
            nodes.append(helper.make_node("MatMul", [node.input[0], names[0]], [names[2]], names[2]))
            nodes.append(helper.make_node("Relu", [names[2]], [names[3]], names[3]))
            node.input[:] = [names[3], names[1]]
        nodes.append(NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _put_into_order(node: NodeProto, tensors: Mapping[str, TensorProto]) -> TensorProto:
    """Give the columns of a weight other scales, the largest columns the first ones, and return whose each has.

    Zero points become numbers, as packed ones are not read beside an order. A code stays as far from its zero point as
    it is, so that zeros stay zeros.
    """
    width = next(attribute.i for attribute in node.attribute if attribute.name == "K")
    weight, scales = (numpy_helper.to_array(tensors[name]) for name in node.input[1:3])
    rows, blocks = weight.shape[:2]
    middles = np.full((rows, blocks), _MIDDLE)
    if len(node.input) > 3:
        packed = tensors[node.input[3]]
        middles = _nibbles(numpy_helper.to_array(packed).reshape(rows, -1))[:, :blocks]
        packed.CopyFrom(numpy_helper.from_array(middles.astype(scales.dtype).reshape(scales.shape), packed.name))
    before = np.arange(blocks * _BLOCK) // _BLOCK
    after = before.copy()
    steps = _nibbles(weight.reshape(rows, -1)) - middles[:, before]
    after[np.argsort(-np.abs(steps[:, :width]).sum(0), kind="stable")] = before[:width]
    codes = np.clip(steps + middles[:, after], 0, 2 * _MIDDLE - 1).astype(np.uint8)
    bytes_of = (codes[:, ::2] | codes[:, 1::2] << 4).reshape(weight.shape)
    tensors[node.input[1]].CopyFrom(numpy_helper.from_array(bytes_of, node.input[1]))
    return numpy_helper.from_array(after[:width].astype(np.int32), f"{node.input[1]}.order")


def _nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the codes of four bits in rows of bytes, the first one in the lower half."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.int64)


def fused(model: ModelProto, feeds: Feeds, random: np.random.Generator) -> ModelProto:
    """Codes with scales measured at run time, as onnxruntime saves them once it has fused what it can.

    Products are DynamicQuantizeMatMul then, and MatMulIntegerToFloat where several read the same codes.
    """
    coded = dynamic(model, feeds, random)
    with _written() as path:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(coded.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


@contextmanager
def _written() -> Iterator[Path]:
    """Give the path of a file that may be written, and let the tools say nothing meanwhile."""
    onnxruntime.set_default_logger_severity(_ERRORS)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "codes.onnx"
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(_WARNINGS)


FORMS: dict[str, Form] = {
    "dynamic codes": dynamic,
    "pairs of codes": pairs,
    "operators on codes": on_codes,
    "blocks of codes": blocks,
    "blocks in an order": blocks_in_an_order,
    "fused products of codes": fused,
}
