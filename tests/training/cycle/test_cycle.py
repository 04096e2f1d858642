"""What loops are told, in which order they are called, and what a run leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from onnxsqueeze import verify
from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training import Goal, Phase, SqueezeRelease
from onnxsqueeze.training.cycle import publishing
from onnxsqueeze.training.cycle.calibration import MAX_SAMPLES, captured, given_batches
from onnxsqueeze.training.cycle.settings import SPARING, Settings
from onnxsqueeze.training.module import OnnxModule, from_onnx
from tests.training.cycle.loops import data, dense, evaluate, started, train

X = data()[0]


class Watched:
    """A training loop that takes down what it is called with."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.left: list[int] = []
        self.drawn: list[tuple[float, ...]] = []

    def __call__(self, module: nn.Module, phase: Phase) -> None:
        assert module.training
        assert isinstance(module, OnnxModule)
        self.phases.append(phase)
        self.left.append(nonzero(module))
        self.drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
        train(module, phase)

    @property
    def calls(self) -> list[tuple[int, str, int]]:
        return [(phase.cycle, phase.kind, phase.step) for phase in self.phases]


def nonzero(module: OnnxModule) -> int:
    """Return how many elements of matrices are neither masked nor zero."""
    weights = {name: parameter for name, parameter in module.initializers.items() if parameter.dim() > 1}
    return sum(int((weight * module.masks.get(name, 1) != 0).sum()) for name, weight in weights.items())


def watched(workdir: Path, cycles: int = 2, **options: Any) -> Watched:
    """Run cycles by single weights with a watched loop."""
    loop = Watched()
    settings = {"criterion": "magnitude", "sparing": 0.0, "round_to": 1, "progress": False, **options}
    SqueezeRelease(dense(), None, loop, evaluate, workdir, **settings).run(cycles=cycles, target_ratio=6.0)
    return loop


def test_a_loop_is_told_where_it_is(tmp_path: Path) -> None:
    loop = watched(tmp_path)
    assert loop.calls == [(1, "squeeze", 1), (2, "release", 1), (2, "squeeze", 1)]
    first, _, last = loop.phases
    assert (first.cycles, first.steps, first.device, first.teacher) == (2, 1, torch.device("cpu"), None)
    assert (first.target, last.target) == (pytest.approx(6**0.5, rel=0.01), pytest.approx(6, rel=0.01))
    assert first.workdir == tmp_path / "cycle-01"
    assert first.workdir.is_dir()
    assert len({phase.seed for phase in loop.phases}) == 3


def test_all_generators_are_seeded_by_the_phase(tmp_path: Path) -> None:
    one, other = watched(tmp_path / "one", cycles=1), watched(tmp_path / "other", cycles=1, seed=1)
    assert one.drawn != other.drawn
    seed = one.phases[0].seed
    assert one.drawn[0][0] == random.Random(seed).random()
    assert one.drawn[0][1] == np.random.RandomState(seed).rand()
    assert one.drawn[0][2] == float(torch.rand(1, generator=torch.Generator().manual_seed(seed)))


def test_masks_are_tighter_in_each_cycle_and_open_in_a_release(tmp_path: Path) -> None:
    squeezed, released, again = watched(tmp_path).left
    assert released > squeezed > again
    masked = from_onnx(tmp_path / "cycle-02" / "masked.onnx")
    assert nonzero(masked) <= again, "momentum and weight decay have not filled what is masked"


@pytest.mark.parametrize(("release", "cycles"), [(True, {2, 3}), (False, set()), ("alternate", {2})])
def test_releases_where_it_is_asked_to(tmp_path: Path, release: Any, cycles: set[int]) -> None:
    loop = watched(tmp_path, cycles=3, release=release)
    assert {phase.cycle for phase in loop.phases if phase.kind == "release"} == cycles
    assert [phase.cycle for phase in loop.phases if phase.kind == "squeeze"] == [1, 2, 3]
    for before, after, phase in zip(loop.left, loop.left[1:], loop.phases[1:], strict=False):
        assert (after > before) == (phase.kind == "release"), "what is not released stays masked"


def test_a_few_zeros_are_released_without_a_training_of_their_own(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(dense())
    tensor = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [32, 32])
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[range(5), range(5)] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    loop = Watched()
    cycle = SqueezeRelease(model, None, loop, evaluate, tmp_path, round_to=1, progress=False)
    cycle.run(cycles=1, target_ratio=1.5)
    assert loop.calls == [(1, "squeeze", 1)]
    assert json.loads((tmp_path / "cycle-01" / "metrics.json").read_bytes())["released"] == 5


def test_units_die_in_the_training_before_masks_so_that_fewer_weights_have_to_go(tmp_path: Path) -> None:
    """A penalty there leaves more weights in a file of the same size, and later cycles may leave more than earlier."""
    plain = watched(tmp_path / "plain", cycles=1)
    spared = watched(tmp_path / "spared", cycles=2, sparing=0.02)
    assert spared.calls == [(1, "prepare", 1), (1, "squeeze", 1), (2, "release", 1), (2, "squeeze", 1)]
    assert spared.left[1] > plain.left[0]
    both = [json.loads((tmp_path / "spared" / f"cycle-0{cycle}" / "metrics.json").read_bytes()) for cycle in (1, 2)]
    assert both[1]["elements"] < both[0]["elements"]
    settings = Settings(criterion="magnitude")
    assert (settings.spares(1), Settings().spares(1), replace(settings, release=False).spares(1)) == (SPARING, 0, 0)


def test_several_steps_in_a_cycle(tmp_path: Path) -> None:
    loop = watched(tmp_path, cycles=1, steps=3)
    assert loop.calls == [(1, "squeeze", 1), (1, "squeeze", 2), (1, "squeeze", 3)]
    assert all(phase.steps == 3 for phase in loop.phases)
    first, second, third = loop.left
    assert first - second > second - third > 0, "most goes at the start, as the cubic schedule has it"


def test_movement_is_measured_over_a_phase_without_new_masks(tmp_path: Path) -> None:
    loop = watched(tmp_path, cycles=2, criterion="movement")
    assert loop.calls == [(1, "prepare", 1), (1, "squeeze", 1), (2, "release", 1), (2, "squeeze", 1)]
    assert loop.left[0] > loop.left[1]


def test_the_teacher_is_the_dense_network(tmp_path: Path) -> None:
    loop = watched(tmp_path / "loop", cycles=1, teacher="loop")
    teacher = loop.phases[0].teacher
    assert teacher is not None
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert torch.equal(teacher(X), from_onnx(dense()).eval()(X))
    plain, taught = watched(tmp_path / "plain", cycles=1), watched(tmp_path / "taught", cycles=1, teacher=True)
    same = [(tmp_path / name / "cycle-01" / "masked.onnx").read_bytes() for name in ("plain", "loop", "taught")]
    assert same[0] == same[1], "a loop that ignores the teacher trains as without one"
    assert same[0] != same[2]
    assert plain.drawn == taught.drawn


def test_the_latency_of_each_network_is_a_cost(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cost": "latency", "round_to": 1, "progress": False}
    best = SqueezeRelease(dense(), None, train, evaluate, tmp_path, **settings).run(cycles=2, target_ratio=4.0)
    assert [point.ratio for point in best.front[1:]] == [pytest.approx(2, rel=0.1), pytest.approx(4, rel=0.1)]


def test_goes_back_when_the_metric_falls_too_far(tmp_path: Path) -> None:
    metrics: Iterator[float] = iter([0.9, 0.9, 0.5, 0.9])
    settings: dict[str, Any] = {"criterion": "magnitude", "structured": True, "round_to": 1, "progress": False}
    cycle = SqueezeRelease(dense(), None, train, lambda module: next(metrics), tmp_path, **settings)
    best = cycle.run(cycles=3, max_drop=0.01)
    sizes = [point.elements for point in best.front]
    assert sizes[2] < sizes[3] < sizes[1] < sizes[0]
    assert best.cycle == 3
    assert [point.within for point in best.front] == [True, True, False, True]


def test_a_run_leaves_its_files(tmp_path: Path, drawn: None) -> None:
    best = started(tmp_path).run(cycles=2, target_ratio=6.0)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    made = {f"cycle-0{cycle}/{name}.onnx" for cycle in (1, 2) for name in ("masked", "minimized", "network")}
    assert made | {"dense.onnx", "state.json", "front.json", "front.html", "cycle-00/minimized.onnx"} <= names
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((tmp_path / "cycle-02" / "metrics.json").read_bytes())
    assert metrics["metric"] == best.front[2].metric
    assert metrics["drop"] == best.front[0].metric - metrics["metric"]
    stages = ["noise", "train release", "squeeze", "minimize", "train squeeze", "evaluate"]
    assert list(metrics["seconds"]) == stages
    assert all(seconds > 0 for seconds in metrics["seconds"].values())
    stored = onnx.load(tmp_path / "cycle-02" / "minimized.onnx").graph.initializer
    floats = [tensor for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT]
    assert metrics["elements"] == sum(int(np.prod(tensor.dims)) for tensor in floats)
    assert verify(tmp_path / "cycle-02" / "masked.onnx", tmp_path / "cycle-02" / "minimized.onnx").passed


def test_tells_each_cycle_in_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"criterion": "magnitude", "round_to": 1}
    SqueezeRelease(dense(), None, train, evaluate, tmp_path, **settings).run(cycles=1, target_ratio=2.0)
    said = capfd.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["dense  ", "cycle 1", "the target is reached; best"]
    assert all(word in lines[1] for word in ("elements", "x  metric", "drop", "train squeeze"))


def test_says_that_there_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publishing, "picture", lambda *_: None)
    SqueezeRelease(dense(), None, train, evaluate, tmp_path).run(cycles=0)
    assert "front.png is not drawn, front.html is: pip install onnxsqueeze[plot]" in capfd.readouterr().err
    assert not (tmp_path / "front.png").exists()
    assert (tmp_path / "front.html").exists()


def test_an_onnx_module_is_taken_as_it_is(tmp_path: Path) -> None:
    module = from_onnx(dense())
    cycle = SqueezeRelease(module, None, train, evaluate, tmp_path, progress=False)
    assert cycle.front is None
    cycle.run(cycles=0)
    assert onnx.load(tmp_path / "dense.onnx") == to_proto(module.write_back())


def test_batches_that_a_module_is_fed_are_kept() -> None:
    module = from_onnx(dense())
    with captured(module) as capture:
        for part in torch.randn(3000, 12).split(700):
            module(part)
    assert [batch[0].shape[0] for batch in capture.batches] == [700, MAX_SAMPLES - 700]
    module(X)
    assert len(capture.batches) == 2, "only while it is asked to"


@pytest.mark.parametrize(
    ("given", "inputs", "shapes"),
    [
        (X[:5], 1, [[(5, 12)]]),
        ((X[:5],), 1, [[(5, 12)]]),
        ([X[:5], X[:3]], 1, [[(5, 12)], [(3, 12)]]),
        ([(X[:5], torch.arange(5))], 1, [[(5, 12)]]),
        ((X[:5], X[:5]), 2, [[(5, 12), (5, 12)]]),
        ([X, X, X], 1, [[(768, 12)], [(256, 12)]]),
    ],
)
def test_given_batches_in_all_forms(given: Any, inputs: int, shapes: list[list[tuple[int, ...]]]) -> None:
    assert [[tuple(part.shape) for part in batch] for batch in given_batches(given, inputs)] == shapes


def test_given_batches_are_used_in_all_cycles(tmp_path: Path) -> None:
    watched(tmp_path, calibration=X[:7])
    names = [path.name for path in (tmp_path / "underway").iterdir()]
    assert names == ["calibration.pt"]
    assert json.loads((tmp_path / "state.json").read_bytes())["calibration"] == "underway/calibration.pt"


def test_several_goals_one_after_the_other(tmp_path: Path) -> None:
    goals = [{"cycles": 1, "target_ratio": 2.0}, Goal(cycles=3, max_drop=None, target_ratio=4.0)]
    found = started(tmp_path / "listed", criterion="units").run(goals=goals)
    assert [point.cycle for point in found.front] == [0, 1, 2, 3]
    assert found.front[1].ratio >= 2.0 and found.ratio >= 4.0 and not found.missed
    apart = started(tmp_path / "apart", criterion="units")
    apart.run(cycles=1, target_ratio=2.0)
    apart.run(cycles=3, target_ratio=4.0)
    for name in ("cycle-03/minimized.onnx", "cycle-02/masked.onnx"):
        assert (tmp_path / "listed" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes()
    with pytest.raises(UsageError, match="give goals=, or cycles="):
        started(tmp_path / "listed").run(cycles=4, goals=goals)


def test_a_run_goes_on_with_the_goals_that_are_left(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stopping(module: nn.Module, phase: Phase) -> None:
        if phase.cycle == 2:
            raise Stopped
        train(module, phase)

    goals = [{"cycles": 1, "target_ratio": 2.0}, {"cycles": 2, "target_ratio": 4.0}]
    run = SqueezeRelease(dense(), data()[0][:2], stopping, evaluate, tmp_path, round_to=1, progress=False)
    with pytest.raises(Stopped):
        run.run(goals=goals)
    assert started(tmp_path).run().ratio >= 4.0


@pytest.mark.parametrize("settings", [{"criterion": "magnitude"}, {"criterion": "variance"}, {"criterion": "units"}])
def test_a_ratio_is_that_of_the_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Single weights leave zeros in it, which count: as many go as make it that small."""
    found = started(tmp_path, **settings).run(cycles=2, target_ratio=4.0)
    assert 2.0 <= found.front[1].ratio < 2.6 and 4.0 <= found.ratio < 5.0
    stored = onnx.load(found.onnx_path).graph.initializer
    elements = sum(int(np.prod(tensor.dims)) for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT)
    assert found.front[2].elements == elements


def test_a_ratio_out_of_reach_is_missed_with_a_word_and_without_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half of the weights may not go: once the other half has, no cycle is trained any more."""
    trained = []

    def counted(module: nn.Module, phase: Phase) -> None:
        trained.append(phase.cycle)
        train(module, phase)

    settings = {"criterion": "magnitude", "floor": 0.5, "ranking": "layer", "release": False, "round_to": 1}
    run = SqueezeRelease(dense(), data()[0][:2], counted, evaluate, tmp_path, **settings)
    found = run.run(cycles=6, target_ratio=50.0)
    assert len(found.front) - 1 == len(trained) < 6
    assert found.missed.startswith(f"missed: {found.ratio:.2f}x of the 50x wanted: nothing more could be removed")
    assert found.missed in capfd.readouterr().err
    before = list(trained)
    again = SqueezeRelease.resume(tmp_path, counted, evaluate, progress=False).run()
    assert trained == before and again.missed == found.missed
