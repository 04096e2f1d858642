"""The models that come with the project: small, minimized to the size they should have, and as accurate as before."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxsqueeze as sq

ROOT = Path(__file__).resolve().parents[2]
DIGITS = Path(os.environ.get("ONNXSQUEEZE_DATA", ROOT.parent / "shared" / "data"), "mnist.npz")

# Weight elements before, after with --round-to 1, and after with the default. The smallest are counted from the masks:
# - mlp: 135 of 300 and 70 of 100 units have inputs and readers, and 80 of 784 pixels no weight, which only
#   the smallest makes use of: 704*135 (or 784*135) + 135 + 135*70 + 70 + 70*10 + 10;
# - vgg: 10, 10, 19, 19, 38, 38 filters and 58 hidden units vary, and one representative constant stays for each of the
#   five tensors that a zero-padded convolution reads;
# - resnet: 56,235 kernel weights and 2,798 BatchNorm and Gemm parameters of the channels that vary and of their
#   representatives; 96 more where absorbed constants became a bias beside a shortcut.
SIZES = {
    "mlp": (266_610, 105_405, 116_205),
    "vgg": (128_154, 47_749, 65_764),
    "resnet": (143_979, 59_129, 63_430),
    "dense": (20_522, 20_522, 20_522),
}

DRAWN = "digits"
"""A dense network on digits of our own, for `squeeze`."""


def answers(model: bytes, images: np.ndarray) -> np.ndarray:
    """The digit that the model sees in each image: int64[n] for float32[n, 1, 28, 28]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0].argmax(axis=1)


def test_models_are_five_and_small() -> None:
    made = (".min.onnx", ".small.onnx")
    files = sorted(path for path in (ROOT / "models").glob("*.onnx") if not path.name.endswith(made))
    assert [path.stem for path in files] == sorted([*SIZES, DRAWN])
    assert sum(path.stat().st_size for path in files) < 3_000_000


@pytest.mark.parametrize("name", SIZES)
def test_model_reaches_its_size(name: str) -> None:
    path = ROOT / "models" / f"{name}.onnx"
    smallest = sq.minimize(path, round_to=1).report
    fastest = sq.minimize(path, verify=False).report
    assert (smallest.weights_before, smallest.weights_after, fastest.weights_after) == SIZES[name]


@pytest.mark.parametrize("name", ["dense", DRAWN])
def test_dense_model_stays_and_says_why(name: str) -> None:
    path = ROOT / "models" / f"{name}.onnx"
    result = sq.minimize(path)
    assert result.report.why_nothing == "every channel is needed: no weight is zero"
    assert result.model.graph == onnx.load(path).graph


@pytest.mark.skipif(not DIGITS.is_file(), reason=f"{DIGITS} is missing; ONNXSQUEEZE_DATA names its folder")
@pytest.mark.parametrize("name", SIZES)
def test_model_gives_the_same_answers(name: str) -> None:
    path = ROOT / "models" / f"{name}.onnx"
    with np.load(DIGITS) as file:
        images = (file["x_test"][::4, np.newaxis] / 255).astype(np.float32)
        labels = file["y_test"][::4]
    before = answers(path.read_bytes(), images)
    after = answers(sq.minimize(path, verify=False).model.SerializeToString(), images)
    assert np.array_equal(before, after)
    assert (before == labels).mean() >= 0.97
