"""Quantized forms of a network, written by onnxruntime's own tools: what files of codes hold, over any layers."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

Feeds = Sequence[dict[str, npt.NDArray[np.generic]]]
Form = Callable[[ModelProto, Feeds, np.random.Generator], ModelProto]
_BLOCK = 16  # the smallest that the operator takes: these networks are narrow
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
    bits, symmetric = (4 if random.random() < 0.7 else 8), bool(random.random() < 0.5)
    with _written():
        quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=_BLOCK, is_symmetric=symmetric)
        quantizer.process()
        return quantizer.model.model


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
}
