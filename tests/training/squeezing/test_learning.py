"""Training on top of a squeeze."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxsqueeze
from onnxsqueeze.cli.main import main
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.goals import Goal
from onnxsqueeze.squeezing.metrics import Judge, judge
from onnxsqueeze.squeezing.report import Taken, joined
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.training import Learning
from onnxsqueeze.training.squeezing import learning
from tests.squeezing.networks import convolutions

IMAGES = np.random.default_rng(7).normal(size=(384, 2, 8, 8)).astype(np.float32)
PART = Part({"x": IMAGES}, np.arange(256), {}, 64)
DENSE = load(convolutions(np.random.default_rng(1)))


def spoilt(scale: float = 0.6) -> onnx.ModelProto:
    """Return the network with weights of the last layer that are too small."""
    model = convolutions(np.random.default_rng(1))
    for tensor in model.graph.initializer:
        if tensor.name == "k3":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(scale), "k3"))
    return model


def judged() -> Judge:
    return judge(outputs_of(DENSE, PART), "deviation")


def error(model: Model, rows: np.ndarray) -> float:
    part = Part({"x": IMAGES}, rows, {}, 64)
    return judged().error(outputs_of(DENSE, part), outputs_of(model, part))


def test_the_originals_outputs_are_learnt_and_generalise() -> None:
    """On samples that were not trained on, less than half of the error is left; there are no labels."""
    given = load(spoilt())
    model, interrupted = Learning(6.0, rate=1e-2).learn(given, DENSE, PART, judged(), 6.0, 0, lambda *step: None)
    assert not interrupted
    unseen = np.arange(256, 384)
    assert error(model, unseen) < 0.5 * error(given, unseen)


def test_mixtures_are_between_two_samples_and_the_original_is_asked_about_them() -> None:
    lessons = learning._Lessons(DENSE, PART, 0)
    feeds, taught = lessons.mixture(1, np.random.default_rng(3))
    plain, _ = lessons.batch(1)
    mixed, own = feeds["x"].numpy(), plain["x"].numpy()
    random = np.random.default_rng(3)
    other, share = random.permutation(64), random.uniform(size=64)
    for row in range(64):
        wanted = own[row] * share[row] + own[other[row]] * (1 - share[row])
        np.testing.assert_allclose(mixed[row], wanted, rtol=1e-4, atol=1e-5)
    part = Part({"x": mixed}, np.arange(64), {}, 64)
    np.testing.assert_allclose(taught[0].numpy(), outputs_of(DENSE, part)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "part",
    [
        Part({"x": IMAGES}, np.arange(9), {}, 1),  # nothing to mix with
        Part({"x": IMAGES.astype(np.int64)}, np.arange(64), {}, 64),  # no number between two tokens is one
        Part({"x": IMAGES, "mask": np.ones((384, 1), bool)}, np.arange(64), {}, 64),
    ],
)
def test_what_cannot_be_averaged_is_not_mixed(part: Part) -> None:
    assert learning._Lessons(DENSE, PART, 0).mixable
    assert not learning._Lessons(DENSE, part, 0).mixable


def test_without_time_the_given_model_comes_back() -> None:
    given = load(spoilt())
    model, _ = Learning(1e-9).learn(given, DENSE, PART, judged(), 1e-9, 0, lambda *step: None)
    assert model is given


def test_what_makes_it_worse_is_not_taken() -> None:
    """A rate that is far too large, for a network that errs in nothing yet."""
    model, _ = Learning(1.0, rate=5.0).learn(DENSE, DENSE, PART, judged(), 1.0, 0, lambda *step: None)
    assert model is DENSE


def test_an_interrupted_training_keeps_its_best() -> None:
    told = []

    def tell(phase: str, fraction: float | None) -> None:
        told.append(fraction)
        if len(told) == 12:
            raise KeyboardInterrupt

    given = load(spoilt())
    model, interrupted = Learning(20.0, rate=1e-2).learn(given, DENSE, PART, judged(), 20.0, 0, tell)
    assert interrupted and error(model, PART.rows) < error(given, PART.rows)


def test_a_long_way_is_gone_in_two_squeezes() -> None:
    assert [goal.ratio for goal in Goal(ratio=9.0).stages()] == [3.0, 9.0]
    assert Goal(ratio=3.0).stages() == [Goal(ratio=3.0)]
    before = [Taken("a", "hidden", 8, 5), Taken("b", "hidden", 8, 3)]
    assert joined(before, [Taken("a", "hidden", 5, 2)]) == (Taken("a", "hidden", 8, 2), before[1])


def test_squeeze_and_train_in_two_steps() -> None:
    """Sizes and layers are told against the dense network, and what was trained is what comes out."""
    found = onnxsqueeze.squeeze(
        convolutions(np.random.default_rng(1)), {"x": IMAGES}, ratio=4, metric="deviation", train=Learning(3.0)
    )
    chosen, points = found.report.chosen, found.report.points
    assert found.report.reached and chosen.ratio >= 4
    assert {taken.before for taken in chosen.taken} == {8}
    assert sum(point.trained for point in points) == pytest.approx(3.0)
    assert min(point.ratio for point in points) < 3


def refused(folder: Path, time: str) -> str:
    onnx.save(convolutions(np.random.default_rng(1)), folder / "net.onnx")
    np.savez(folder / "x.npz", x=IMAGES)
    given = [str(folder / "net.onnx"), "--data", str(folder / "x.npz"), "--ratio", "2", "--train", time]
    done = CliRunner().invoke(main, ["squeeze", *given])
    assert done.exit_code == 2 and len(done.output.strip().splitlines()) == 1, done.output
    assert not (folder / "net.small.onnx").exists()
    return done.output


@pytest.mark.parametrize("time", ["0", "ten", "-3m", "5d"])
def test_times_that_are_none(tmp_path: Path, time: str) -> None:
    assert "give a time, as in 90s" in refused(tmp_path, time)


def test_without_torch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("onnxsqueeze.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    assert "pip install 'onnxsqueeze[train]'" in refused(tmp_path, "10m")


def test_an_interruption_on_the_way_does_not_say_that_the_goal_is_reached() -> None:
    """In the first of two squeezes, when a network of half the way is there."""

    def tell(phase: str, fraction: float | None) -> None:
        if phase == "training" and fraction and fraction > 0.3:
            raise KeyboardInterrupt

    found = onnxsqueeze.squeeze(
        convolutions(np.random.default_rng(1)),
        {"x": IMAGES},
        ratio=4,
        metric="deviation",
        train=Learning(6.0),
        progress=tell,
    )
    assert found.report.interrupted and not found.report.reached
    assert 1.9 < found.report.chosen.ratio < 4
