"""Each goal is met as it was asked, by what the report and the file itself say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper

import onnxsqueeze
from onnxsqueeze import UsageError
from onnxsqueeze.cli.main import main
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.gathering import gathered
from onnxsqueeze.squeezing.metrics import judge
from onnxsqueeze.squeezing.points import Maker
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part, read
from onnxsqueeze.units.discovery import units_of
from tests.squeezing.networks import convolutions, model

WIDTH, HIDDEN = 12, 64


def classifier(random: np.random.Generator) -> onnx.ModelProto:
    """Return two hidden layers that are far wider than what they compute needs: a sum of eight features."""
    mixed = random.normal(size=(8, HIDDEN))
    weights = {
        "w1": random.normal(size=(WIDTH, 8)) @ mixed * 0.2, "b1": np.full(HIDDEN, 4.0),
        "w2": random.normal(size=(HIDDEN, HIDDEN)) * 0.1, "b2": np.full(HIDDEN, 0.1),
        "w3": random.normal(size=(HIDDEN, 4)), "b3": np.zeros(4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Gemm", ["r1", "w2", "b2"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["r2"]),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["y"]),
    ]
    return model(nodes, weights, ["batch", WIDTH], ["batch", 4])


NETWORK = classifier(np.random.default_rng(0))
X = np.random.default_rng(1).normal(size=(600, WIDTH)).astype(np.float32)


def squeezed(**goal: object) -> onnxsqueeze.Squeezed:
    return onnxsqueeze.squeeze(NETWORK, {"x": X}, metric="top1", **goal)  # type: ignore[arg-type]


def test_bytes() -> None:
    """The file is no larger than was asked, and not much smaller."""
    found = squeezed(bytes=8_000)
    length = len(found.model.SerializeToString())
    assert found.report.reached and 5_000 < length <= 8_000
    assert length == found.report.chosen.bytes


def test_macs() -> None:
    """Multiply-accumulates of convolutions count by their positions, not by their weights."""
    random = np.random.default_rng(2)
    images = random.normal(size=(200, 2, 8, 8)).astype(np.float32)
    found = onnxsqueeze.squeeze(convolutions(random), {"x": images}, macs=1.6, metric="deviation", round_to=1)
    chosen = found.report.chosen
    assert found.report.reached and 1.6 <= chosen.macs_ratio < 4
    kept = {name: entry.shape for name, entry in found.minimized.initializers.items() if len(entry.shape) == 4}
    positions = {"k1": 64, "k2": 64, "k3": 16}
    counted = sum(np.prod(shape) * positions[name[:2]] for name, shape in kept.items())
    assert chosen.macs == pytest.approx(counted, rel=0.01)


def test_the_largest_drop_alone_asks_for_the_smallest_network() -> None:
    found = squeezed(max_drop=2.0)
    chosen = found.report.chosen
    assert found.report.reached and chosen.drop <= 2.0 and chosen.ratio > 2
    assert all(point.ratio <= chosen.ratio for point in found.report.points if point.drop <= 2.0)


def test_latency_is_measured_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of the time that was measured decides: here it is taken to be that of weights and a constant more."""

    def time_of(self: Maker, small: object) -> float:
        return 0.3 + 0.7 * weight_elements(small) / weight_elements(self.original)  # type: ignore[arg-type]

    monkeypatch.setattr(Maker, "_latency", time_of)
    found = squeezed(latency=0.5)
    assert found.report.reached and len(found.report.points) > 1, "half the size is not half the time"
    assert found.report.chosen.latency is not None and 0.3 < found.report.chosen.latency <= 0.5
    beyond = squeezed(latency=0.2)
    assert not beyond.report.reached and "--latency 0.2" in beyond.report.why


def test_latency_of_a_network_against_itself_is_one() -> None:
    original = load(NETWORK)
    samples = read({"x": X}, original)
    judged = judge(outputs_of(original, samples.calibration))
    maker = Maker(original, judged, samples.held_out, 1.0, {})
    assert 0.1 < maker.measured(original, 1, (), latency=True).latency < 10  # type: ignore[operator]


def test_labels_give_an_accuracy() -> None:
    labels = outputs_of(load(NETWORK), Part({"x": X}, np.arange(len(X)), {}, 64))[0].argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % 4
    found = onnxsqueeze.squeeze(NETWORK, {"x": X, "labels": labels}, ratio=2, labels="labels")
    assert found.report.metric == "accuracy" and 0.8 < found.report.dense < 0.95


def run(folder: Path, data: str, *arguments: str) -> Result:
    onnx.save(NETWORK, folder / "net.onnx")
    return CliRunner().invoke(main, ["squeeze", str(folder / "net.onnx"), "--data", data, *arguments])


@pytest.mark.parametrize("asked", [("--macs", "2"), ("--bytes", "9000"), ("--max-drop", "5"), ("--latency", "0.95")])
def test_goals_of_the_command_line(tmp_path: Path, asked: tuple[str, ...]) -> None:
    """Whether the time can be met the machine decides; the file and the report are there in any case."""
    np.savez(tmp_path / "samples.npz", x=X)
    done = run(tmp_path, str(tmp_path / "samples.npz"), *asked, "--json", str(tmp_path / "r.json"))
    assert done.exit_code in ((0, 6) if "--latency" in asked else (0,)), done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["goal"].startswith(asked[0]) and (tmp_path / "net.small.onnx").exists()
    assert (report["chosen"]["latency"] is not None) == ("--latency" in asked)


def _bad(name: str, folder: Path) -> str:
    """Write samples that cannot be used, and return what to give for them."""
    broken = X.copy()
    broken[:, 0] = np.nan
    arrays = {
        "missing": {},
        "other": {"z": X},
        "shape": {"x": X[:, :5]},
        "nan": {"x": broken},
        "three": {"x": X[:3]},
        "labels": {"x": X, "labels": np.arange(7)},
    }
    if name in arrays:
        np.savez(folder / "bad.npz", **arrays[name])
        return str(folder / "bad.npz")
    (folder / "given_samples.py").write_text("def batches():\n    raise RuntimeError('no\\nluck')\n")
    return "given_samples:batches"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "lacks the input 'x'"),
        ("other", "'z', which is no input"),
        ("shape", "the model wants"),
        ("nan", "holds NaN"),
        ("three", "holds 3 samples"),
        ("labels", "7 labels for 600 samples"),
        ("raises", "RuntimeError: no"),
    ],
)
def test_bad_samples_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    labels = ("--labels", "labels") if name == "labels" else ()
    done = run(tmp_path, _bad(name, tmp_path), "--ratio", "2", *labels)
    assert done.exit_code == 2 and words in done.output, done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "net.small.onnx").exists()


def test_data_is_read_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder far larger than what is used of it: whole arrays are never taken into memory."""
    count, width = 1_000_000, WIDTH
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(count, width))
    mapped[:] = 0.5  # a sparse file would be zeros
    mapped[::977] = np.random.default_rng(3).normal(size=mapped[::977].shape)
    mapped.flush()
    original = load(NETWORK)
    samples = read(tmp_path, original, most=512)
    assert isinstance(samples.calibration.arrays["x"], np.memmap) and len(samples.calibration) == 512
    largest = max(batch["x"].nbytes for batch in samples.calibration.batches())
    assert largest <= samples.calibration.batch * width * 4
    found = with_biases(original)
    readers = readers_of(found, units_of(found))
    fed: list[int] = []
    batches = Part.batches
    monkeypatch.setattr(Part, "batches", lambda self: (fed.append(len(b["x"])) or b for b in batches(self)))
    assert gathered(found, readers, samples.calibration, 0).keys() == {"h1", "h2", "y"}
    assert sum(fed) < 4_000


def test_no_sample_of_the_third_that_is_held_out_is_used_for_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the held-out samples say, the same network comes out, for a goal that asks for a size."""
    first = squeezed(ratio=3, seed=4)
    held = read({"x": X}, load(NETWORK), seed=4).held_out.rows
    other = X.copy()
    other[held] = -other[held][::-1]
    second = onnxsqueeze.squeeze(NETWORK, {"x": other}, ratio=3, seed=4, metric="top1")
    assert first.model == second.model
    assert first.report.chosen.deviation != second.report.chosen.deviation


def test_a_model_that_gives_nan_is_refused() -> None:
    with pytest.raises(UsageError, match="own outputs"):
        onnxsqueeze.squeeze(NETWORK, {"x": np.full((60, WIDTH), 3e38, np.float32)}, ratio=2)
