"""Measure what leaves quantized networks in each form, beside what leaves the float network they were made of.

Small networks are masked, exported and quantized by onnxruntime's own tools; half of the units of each layer are zeros,
with their biases or (``--biases``) without them, so that they are constants. A row says which share of the elements of
matrices and kernels stays, and whether what is left gives the same bits with all optimizations on.

    python -m tools.measure.measure_quantized            # five to ten minutes on a busy machine
    python -m tools.measure.measure_quantized --form "QDQ" --network residual --biases
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    matmul_nbits_quantizer,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table
from torch import nn

import onnxsqueeze as sq
from tools.models import masks
from tools.models.exporting import export
from tools.models.networks import IMAGE, Axis, Stage, basic, conv_norm, inverted_residuals, linear, resnet, vgg
from tools.models.transformer_networks import Embeddings, PostNormBlock

Values = dict[str, Any]
SAMPLES, SEED = 16, 0
SHARE = 0.5  # of the units of each layer


@dataclass(frozen=True)
class Network:
    """One network: how it is made, the shape of a sample, and how many tokens there are, 0 for real numbers."""

    make: Callable[[], nn.Module]
    sample: tuple[int, ...]
    tokens: int = 0

    def draw(self, count: int, seed: int) -> Any:
        """Draw samples."""
        random = np.random.default_rng(seed)
        if self.tokens:
            return random.integers(0, self.tokens, (count, *self.sample))
        return random.standard_normal((count, *self.sample)).astype(np.float32)


def _residual() -> nn.Module:
    stem = Axis("stem", 24)
    stages = [Stage(basic, 24, 32, 2, 1), Stage(basic, 48, 32, 1)]
    return resnet(conv_norm(IMAGE, stem, 3), stem, stages, 10)


def _mobile(squeeze: bool) -> nn.Module:
    plan = [(1, 16, 1, 1, 3), (4, 24, 2, 2, 3), (4, 32, 1, 1, 5)]
    return inverted_residuals(plan, nn.SiLU if squeeze else nn.ReLU6, squeeze, 10)


def _transformer() -> nn.Module:
    stream = Axis("stream", 64)
    blocks = [PostNormBlock(stream, Axis(f"heads{n}", 128, block=64), Axis(f"hidden{n}", 128)) for n in range(2)]
    return nn.Sequential(Embeddings(100, 16, stream), *blocks, linear(stream, Axis("classes", 10)))


NETWORKS = {
    "plain": Network(lambda: vgg((24, 24, "pool", 32, 32, "pool"), IMAGE, 48, 16, 10), (3, 16, 16)),
    "residual": Network(_residual, (3, 16, 16)),
    "mobile": Network(lambda: _mobile(False), (3, 32, 32)),
    "gated": Network(lambda: _mobile(True), (3, 32, 32)),
    "transformer": Network(_transformer, (12,), 100),
}


class Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands out one batch to calibrate with."""

    def __init__(self, batch: Any) -> None:
        self._left = iter([{"image": batch}])

    def get_next(self) -> Values | None:
        """Return what is left."""
        return next(self._left, None)


def _static(**options: Any) -> Callable[[Path, Path, Any], None]:
    def quantize(source: Path, target: Path, batch: Any) -> None:
        quantize_static(source, target, Samples(batch), **options)

    return quantize


def _saved(level: str) -> Callable[[Path, Path, Any], None]:
    """Let onnxruntime write the QDQ network as it optimized it."""

    def quantize(source: Path, target: Path, batch: Any) -> None:
        middle = target.with_suffix(".qdq.onnx")
        _static(per_channel=True)(source, middle, batch)
        _session(middle, level, target)

    return quantize


def _dynamic(**options: Any) -> Callable[[Path, Path, Any], None]:
    return lambda source, target, batch: quantize_dynamic(source, target, **options)


def _blocks(bits: int, symmetric: bool, form: QuantFormat) -> Callable[[Path, Path, Any], None]:
    def quantize(source: Path, target: Path, batch: Any) -> None:
        config = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(
            block_size=16, is_symmetric=symmetric, bits=bits, quant_format=form
        )
        made = matmul_nbits_quantizer.MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
        made.process()
        made.model.save_model_to_file(str(target))

    return quantize


S8, U8, S16, U16, S4 = QuantType.QInt8, QuantType.QUInt8, QuantType.QInt16, QuantType.QUInt16, QuantType.QInt4
OPERATORS = QuantFormat.QOperator
FORMS: Mapping[str, Callable[[Path, Path, Any], None]] = {
    "QDQ, data uint8, weights int8": _static(activation_type=U8, weight_type=S8),
    "QDQ, uint8/int8, per channel": _static(activation_type=U8, weight_type=S8, per_channel=True),
    "QDQ, uint8/int8, per channel, 7 bits": _static(
        activation_type=U8, weight_type=S8, per_channel=True, reduce_range=True
    ),
    "QDQ, int8/int8, per channel": _static(activation_type=S8, weight_type=S8, per_channel=True),
    "QDQ, uint8/uint8": _static(activation_type=U8, weight_type=U8),
    "QDQ, uint16/int8": _static(activation_type=U16, weight_type=S8),
    "QDQ, int16/int16": _static(activation_type=S16, weight_type=S16),
    "QDQ, uint8/int4": _static(activation_type=U8, weight_type=S4),
    "operators, uint8/int8": _static(activation_type=U8, weight_type=S8, quant_format=OPERATORS),
    "operators, uint8/int8, per channel": _static(
        activation_type=U8, weight_type=S8, quant_format=OPERATORS, per_channel=True
    ),
    "operators, int8/int8": _static(activation_type=S8, weight_type=S8, quant_format=OPERATORS),
    "QDQ, as onnxruntime saves it": _saved("ORT_ENABLE_EXTENDED"),
    "QDQ, as onnxruntime saves it, channels last": _saved("ORT_ENABLE_ALL"),
    "dynamic": _dynamic(),
    "dynamic, per channel": _dynamic(per_channel=True),
    "blocks of 4 bits": _blocks(4, False, OPERATORS),
    "blocks of 8 bits": _blocks(8, True, OPERATORS),
    "blocks of 4 bits, QDQ": _blocks(4, True, QuantFormat.QDQ),
}


def _session(path: Path, level: str = "ORT_ENABLE_ALL", saved: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _elements(path: Path) -> int:
    """Return the number of elements of all matrices and kernels."""
    model = onnx.load(path)
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1)


@torch.no_grad()
def _masked(network: nn.Module, biases: bool) -> None:
    """Let half of the units of each layer be zeros, or constants if their biases stay."""
    generator = torch.Generator().manual_seed(SEED)
    masks.randomize_norms(network, generator)
    units = {
        name: masks.weakest_units(network, name, SHARE)
        for name, axis in masks.axes(network).items()
        if not axis.normalized and axis.name != "classes"
    }
    masks.apply(network, masks.without_rows(network, units))
    if biases:
        return
    for module in network.modules():
        axis = getattr(module, "axes", (None,))[0]
        if axis is not None and axis.name in units and getattr(module, "bias", None) is not None:
            module.bias[units[axis.name]] = 0  # type: ignore[index]
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean[units[axis.name]] = 0  # type: ignore[index]


@dataclass(frozen=True)
class Row:
    """What was measured of one network in one form: the shares that stay, and the outputs' largest deviation."""

    share: float
    deviation: float
    seconds: float


def measure(path: Path, batch: Any) -> Row:
    """Minimize a file and compare it with what it was."""
    after = path.with_suffix(".min.onnx")
    start = perf_counter()
    result = sq.minimize(path, round_to=1, verify=False)
    seconds = perf_counter() - start
    onnx.save(result.model, after)
    before_out, after_out = (_session(each).run(None, {"image": batch})[0] for each in (path, after))
    scale = float(np.abs(before_out).max())
    return Row(_elements(after) / _elements(path), float(np.abs(before_out - after_out).max()) / scale, seconds)


def rows(name: str, chosen: str, biases: bool, folder: Path) -> Iterator[tuple[str, Row | str]]:
    """Measure a network in real numbers, then in each form."""
    network = NETWORKS[name]
    torch.manual_seed(SEED)
    module = network.make()
    _masked(module, biases)
    path, prepared = folder / f"{name}.onnx", folder / f"{name}.prepared.onnx"
    export(module, path, network.sample, opset=21, tokens=bool(network.tokens), fold_norms=True)
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    batch, samples = network.draw(3, 1), network.draw(SAMPLES, 2)
    yield "float", measure(prepared, batch)
    for form, quantize in FORMS.items():
        if chosen not in form:
            continue
        target = folder / f"{name}.{form.replace('/', '_')}.onnx"
        try:
            quantize(prepared, target, samples)
            _session(target)
        except Exception as error:  # noqa: BLE001  (whatever onnxruntime raises of what it cannot quantize or run)
            yield form, str(error).splitlines()[0][:60]
            continue
        yield form, measure(target, batch)


@click.command()
@click.option("--network", "names", type=click.Choice(list(NETWORKS)), multiple=True, help="By default all.")
@click.option("--form", default="", help="A part of the names of the forms to measure.")
@click.option("--biases", is_flag=True, help="Leave biases, so that units of zeros are constants.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the files.")
def main(names: tuple[str, ...], form: str, biases: bool, keep: Path | None) -> None:
    """Print a table of forms and networks."""
    logging.disable(logging.WARNING)
    console = Console()
    for name in names or NETWORKS:
        table = Table("form", "weights left", "deviation", "seconds", title=name)
        with tempfile.TemporaryDirectory() as temporary:
            folder = keep or Path(temporary)
            folder.mkdir(exist_ok=True, parents=True)
            for label, row in rows(name, form, biases, folder):
                if isinstance(row, str):
                    table.add_row(label, "-", row, "")
                else:
                    bits = "same bits" if row.deviation == 0 else f"{row.deviation:.1e}"
                    table.add_row(label, f"{row.share:.1%}", bits, f"{row.seconds:.1f}")
        console.print(table)


if __name__ == "__main__":
    main()
