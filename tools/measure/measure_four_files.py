"""Compare the files of one network: as it is, minimized, quantized to int8, and both in either order.

Samples to calibrate with are random; the quantizer is onnxruntime's, with weights of int8 for each channel. Prints the
bytes and, with ``--seconds``, the latency in onnxruntime on one thread as a ratio to the first file.

    python -m tools.measure.measure_four_files models/vgg.onnx models/resnet.onnx
    python -m tools.measure.measure_four_files models/resnet.onnx --seconds 10    # on a quiet machine
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

import onnxsqueeze as sq
from onnxsqueeze.bench import Settings, bench
from onnxsqueeze.bench.report import Measurement

SAMPLES, SEED = 16, 0


class Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Random inputs of a model, one after the other."""

    def __init__(self, path: Path) -> None:
        random = np.random.default_rng(SEED)
        (value,) = onnx.load(path).graph.input
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        drawn = (random.standard_normal(shape).astype(np.float32) for _ in range(SAMPLES))
        self._left = ({value.name: sample} for sample in drawn)

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[type-arg]
        """Return the next one, None after the last."""
        return next(self._left, None)


def quantized(source: Path) -> Path:
    """Write a model in codes beside it and return its path."""
    prepared, target = source.with_suffix(".prepared.onnx"), source.with_suffix(".int8.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, target, Samples(prepared), per_channel=True, **types)
    return target


def minimized(source: Path) -> Path:
    """Write what is left of a model beside it and return its path."""
    target = source.with_suffix(".min.onnx")
    sq.minimize(source).save(target)
    return target


def files(source: Path, folder: Path) -> dict[str, Path]:
    """Write the files of a network into a folder and return them, the one that it came as first."""
    given = folder / "net.onnx"
    given.write_bytes(source.read_bytes())
    small, codes = minimized(given), quantized(given)
    return {
        "float": given,
        "minimized": small,
        "int8": codes,
        "int8, minimized": minimized(codes),
        "minimized, int8": quantized(small),
    }


def _told(entry: Measurement | None) -> tuple[str, str]:
    """Return a latency, and the ratio to the first with its interval."""
    if entry is None or entry.latency is None:
        return "", ""
    ratio = entry.ratio
    return f"{1e3 * entry.latency:.3f} ms", f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else ""


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", type=float, help="Measure latencies as well, for so long.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the files, of one network.")
def main(sources: tuple[Path, ...], seconds: float | None, keep: Path | None) -> None:
    """Print a table for each network."""
    logging.disable(logging.WARNING)
    for source in sources:
        with tempfile.TemporaryDirectory() as temporary:
            folder = keep or Path(temporary)
            folder.mkdir(exist_ok=True, parents=True)
            made = files(source, folder)
            table = Table("file", "bytes", "latency", "ratio", title=source.name)
            report = seconds and bench(list(made.values()), ["onnxruntime"], Settings(seconds=seconds))
            found = {str(entry.model): entry for entry in report.measurements} if report else {}
            for name, path in made.items():
                table.add_row(name, f"{path.stat().st_size:,}", *_told(found.get(str(path))))
        Console().print(table)


if __name__ == "__main__":
    main()
