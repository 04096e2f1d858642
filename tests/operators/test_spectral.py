"""Planted channels beside DFT, and what STFT keeps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tests.support.planted.checks import SINGLE, assert_equal_outputs, deviation, minimize, run, weights

TEXT = """<ir_version: 9, opset_import: ["": 20]> transformed (float[n,6,5] x) => (float[n,6,2] y) {
    a = MatMul(x, wa)
    h = Add(a, b)
    z = Unsqueeze(h, three)
    f = DFT(z, , one)
    re, im = Split <axis = 3, num_outputs = 2> (f)
    power = Mul(re, re)
    rows = Squeeze(power, three)
    y = MatMul(rows, wb)
}"""


def test_dft_along_tokens() -> None:
    """Unread channels and zeros leave; a constant is none behind it, so that it stays, with that reason."""
    random = np.random.default_rng(0)
    first, bias, last = (random.normal(size=shape).astype(np.float32) for shape in ((5, 9), (9,), (9, 2)))
    first[:, :4], bias[:3], last[4:6] = 0, 0, 0
    model = parser.parse_model(TEXT)
    for name, array in {"wa": first, "b": bias, "wb": last, "one": np.array(1), "three": np.array([3])}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert weights(result.model) == [(4,), (4, 2), (5, 4)]
    assert any(reason.endswith("DFT") for reason in result.report.stayed)


SOUND = """<ir_version: 9, opset_import: ["": 17]> sound (float[n,LENGTH] x) => (float[n,f,3] y) {
    signal = Unsqueeze(x, two)
    spectrum = STFT <onesided = ONESIDED> (signal, step, WINDOW)
    re = Gather <axis = 3> (spectrum, zero)
    im = Gather <axis = 3> (spectrum, one)
    rr = Mul(re, re)
    ii = Mul(im, im)
    power = Add(rr, ii)
    MEL
    raised = Add(energy, small)
    seen = Log(raised)
    h = MatMul(seen, wa)
    a = Add(h, ba)
    r = Relu(a)
    y = MatMul(r, wb)
}"""
BANDS, FRAME, HIDDEN, LEFT = 8, 16, 10, 5


def sound(onesided: bool, window: bool, length: str, mel: bool) -> onnx.ModelProto:
    """Return two dense layers behind the energies of a spectrum, five of whose ten hidden units can go."""
    seen = BANDS if mel else FRAME // 2 + 1 if onesided else FRAME
    random = np.random.default_rng(seen)
    first, bias, last = (random.normal(size=shape) for shape in ((seen, HIDDEN), HIDDEN, (HIDDEN, 3)))
    first[:, [1, 4, 8]], bias[[1, 4, 8]], last[[0, 5]] = 0, 0, 0
    text = SOUND.replace("LENGTH", length).replace("ONESIDED", str(int(onesided)))
    text = text.replace("WINDOW", "window" if window else ", frame")
    bands = "mel = MelWeightMatrix(bands, frame, rate, low, high) energy = MatMul(power, mel)"
    model = parser.parse_model(text.replace("MEL", bands if mel else "energy = Identity(power)"))
    numbers = {"zero": 0, "one": 1, "step": 4, "frame": FRAME, "bands": BANDS, "rate": 8000}
    reals = {"low": 0, "high": 4000, "small": 1e-3, "wa": first, "ba": bias, "wb": last}
    stored = {name: np.array(value) for name, value in numbers.items()} | {"two": np.array([2])}
    stored |= {name: np.asarray(value, np.float32) for name, value in reals.items()}
    stored["window"] = np.hanning(FRAME).astype(np.float32)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(stored[name], name) for name in stored if name in read)
    return model


@pytest.mark.parametrize("length", ["l", "40"])
@pytest.mark.parametrize(("onesided", "mel"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("window", [True, False])
def test_layers_behind_a_spectrum(onesided: bool, mel: bool, window: bool, length: str) -> None:
    """STFT says how many frequencies there are, however long the signal, and MelWeightMatrix how many bands."""
    model = sound(onesided, window, length, mel)
    result = minimize(model).model
    seen = BANDS if mel else FRAME // 2 + 1 if onesided else FRAME
    assert [shape for shape in weights(result) if len(shape) == 2] == sorted([(seen, LEFT), (LEFT, 3)])
    for samples in (40, 57) if length == "l" else (40,):
        feeds = {"x": np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)}
        for optimized in (False, True):
            assert deviation(run(model, feeds, optimized), run(result, feeds, optimized)) <= SINGLE


def test_a_spectrum_of_many_signals() -> None:
    """A transform of tokens of any number: the channels beside it leave."""
    model = parser.parse_model(TEXT.replace("float[n,6,5]", "float[n,t,5]").replace("float[n,6,2]", "float[n,t,2]"))
    random = np.random.default_rng(0)
    first, bias, last = (random.normal(size=shape).astype(np.float32) for shape in ((5, 9), (9,), (9, 2)))
    first[:, :3], bias[:3], last[4:6] = 0, 0, 0
    for name, array in {"wa": first, "b": bias, "wb": last, "one": np.array(1), "three": np.array([3])}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert weights(result.model) == [(4,), (4, 2), (5, 4)]
