"""Other number types: float16 and int8, by the tools that come with onnxruntime. What they make is not exact."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, version_converter

from onnxsqueeze.errors import InvalidModelError, SqueezeError, one_line
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import MAX_PROTO_BYTES
from onnxsqueeze.model.saving import save
from onnxsqueeze.model.walk import all_nodes, default_opset, graph_nodes, subgraphs
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import Values

_PER_CHANNEL_FROM = 13  # the opset in which QuantizeLinear learned about an axis


class QuantizationError(Exception):
    """A model cannot be had in another number type; the message is the reason."""


def to_float16(source: Path, target: Path) -> None:
    """Write a model with float16 weights that computes in float16; its inputs and outputs keep their types.

    The converter of onnxruntime is used, which grew out of that of onnxconverter-common and is the one still cared
    for. It leaves operators in float32 that are known to need it, with casts around them.

    Raises:
        QuantizationError: when a weight is too large, or the converter fails.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _check_range(source)
    with _failures("converted to float16"):
        model = convert_float_to_float16(str(source), keep_io_types=True)
        _sort_nodes(model.graph)
        save(load(model), target)


def to_int8(source: Path, target: Path, feeds: Sequence[Values]) -> None:
    """Write a model with int8 weights, one scale for each channel, and int8 activations.

    It holds QuantizeLinear and DequantizeLinear around the operators that runtimes know how to compute in integers
    (QDQ). The ranges of the activations are the smallest and the largest values on the samples: unlike percentiles and
    entropy, that needs memory for one sample at a time.

    Args:
        source: the model; one below opset 13 is raised to it, where scales for each channel begin.
        target: the file to write. Others are written beside it.
        feeds: samples to calibrate with.

    Raises:
        QuantizationError: when there is nothing to quantize, or the quantizer fails.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        """Hands out the samples one by one."""

        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Values | None:
            return next(self._feeds, None)

    model = Source(source)
    large = sum(map(math.prod, model.shapes.values())) * 4 > MAX_PROTO_BYTES // 2
    raised, prepared, quantized = (target.with_name(f"{step}.onnx") for step in ("raised", "prepared", "quantized"))
    with _failures("quantized to int8"):
        if default_opset(model.skeleton) < _PER_CHANNEL_FROM:
            save(load(version_converter.convert_version(onnx.load(source), _PER_CHANNEL_FROM)), raised)
        # Folds each BatchNormalization into its convolution; it would be quantized by itself otherwise.
        quant_pre_process(
            raised if raised.exists() else source, prepared, skip_symbolic_shape=True, save_as_external_data=large
        )
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=large,
        )
        made = load(quantized)
    if not any(node.op_type == "QuantizeLinear" for node in all_nodes(made.skeleton)):
        raise QuantizationError("it has no operator that is quantized")
    save(made, target)


def _check_range(path: Path) -> None:
    """Refuse weights beyond what float16 can hold, of which the converter would make its largest number."""
    largest = float(np.finfo(np.float16).max)
    for name, initializer in load(path, check=False).initializers.items():
        if initializer.header.data_type == TensorProto.FLOAT:
            found = float(np.max(np.abs(initializer.array), initial=0.0))
            if found > largest:
                raise QuantizationError(f"its weight '{name}' holds {found:.3g}, and float16 ends at {largest:g}")


def _sort_nodes(graph: GraphProto) -> None:
    """Put each node behind those that it reads from: the converter appends the casts at the inputs at the end."""
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output}
    read = [{name for inner in _nested(node) for name in inner.input} for node in graph.node]
    before = {index: {made_by[name] for name in names if name in made_by} for index, names in enumerate(read)}
    nodes = list(graph.node)  # which outlive their place in the graph
    del graph.node[:]
    graph.node.extend(nodes[index] for index in TopologicalSorter(before).static_order())


def _nested(node: NodeProto) -> Iterator[NodeProto]:
    yield node
    for graph in subgraphs(node):
        yield from graph_nodes(graph)


def need_float32(source: Source, precision: str) -> None:
    """Refuse a model without float32 numbers: no other ones are converted.

    Raises:
        QuantizationError: when it has none.
    """
    if TensorProto.FLOAT not in source.float_types:
        raise QuantizationError(f"it holds no float32 numbers, and only those become {precision}")


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn what a converter raises, which may be anything, into one line, and keep its warnings to ourselves."""
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, SqueezeError) and not isinstance(error, InvalidModelError):
            raise  # a file that cannot be written
        raise QuantizationError(f"it cannot be {what}: {type(error).__name__}: {one_line(error)}") from error
    finally:
        logging.disable(silenced)
