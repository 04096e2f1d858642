"""Measure what float16 and int8 do to size and accuracy: the table in docs/deploy/README.md.

python tools/measure/measure_deployments.py --data FOLDER      # mnist.npz, as Keras distributes it
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnxruntime

import onnxsqueeze
from onnxsqueeze.deployment import Options, deploy
from onnxsqueeze.deployment.targets import FLOAT16, INT8, UNCHANGED

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("mlp", "vgg", "resnet")
CALIBRATING = 256  # training images


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(data: Path) -> None:
    """Print the table."""
    print(f"onnxruntime {onnxruntime.__version__}\n\n| model | unchanged | `--fp16` | `--int8` |\n|---|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        given = _samples(data / "mnist.npz", Path(folder))
        for name in MODELS:
            source = ROOT / f"models/{name}.onnx"
            cells = [_cell(source, Path(folder), precision, given) for precision in (UNCHANGED, FLOAT16)]
            print(f"| {name}.onnx | {' | '.join(cells)} | it minimizes first |")
            small = Path(folder) / f"{name}.onnx"
            onnxsqueeze.minimize(source).save(small)
            cells = [_cell(small, Path(folder), precision, given) for precision in (UNCHANGED, FLOAT16, INT8)]
            print(f"| {name}, minimized | {' | '.join(cells)} |", flush=True)


def _samples(source: Path, folder: Path) -> tuple[Path, Path]:
    """Write the files that calibrate and that judge: images of float32 [samples, 1, 28, 28] and labels."""
    with np.load(source) as file:
        for name, part in (("train", slice(CALIBRATING)), ("test", slice(None))):
            images = (file[f"x_{name}"][part, None] / 255).astype(np.float32)
            np.savez(folder / f"{name}.npz", image=images, labels=file[f"y_{name}"][part].astype(np.int64))
    return folder / "train.npz", folder / "test.npz"


def _cell(source: Path, folder: Path, precision: str, given: tuple[Path, Path]) -> str:
    """Return the bytes of the model that is written, and the accuracy of it."""
    target = folder / f"{source.parent.name}.{source.stem}.{precision}"
    calibrate = given[0] if precision == INT8 else None
    manifest = deploy(source, "ort", target, Options(precision, calibrate=calibrate, inputs=given[1]))
    size = next(file.bytes for file in manifest.files if file.path.endswith("model.onnx"))
    assert manifest.accuracy is not None
    return f"{size:,} ({manifest.accuracy.after:.2%})".replace("%", " %")


if __name__ == "__main__":
    main()
