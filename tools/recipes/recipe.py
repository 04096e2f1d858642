"""One run of a recipe: train dense, squeeze in cycles, judge the ONNX files on the test images, note the figures."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tools.recipes.data import Data, Images
from tools.recipes.fitting import Loop, accuracy, written

if TYPE_CHECKING:
    from onnxsqueeze.training import Phase, SqueezeRelease
    from onnxsqueeze.training import Point as Cycle

Build = Callable[[], nn.Module]
Schedule = Callable[["Phase"], Loop]
OUTCOME = "outcome.json"
_DENSE = "dense.pt"
_TEST_BATCH = 1000
_CALIBRATION = 1024


@dataclass(frozen=True)
class Point:
    """One network on the front of a run: accuracies as shares, sizes as weight elements of the ONNX file."""

    cycle: int
    elements: int
    ratio: float
    validation: float
    test: float


@dataclass(frozen=True)
class Outcome:
    """What one seed of a recipe gave.

    Attributes:
        dense_elements, dense_validation, dense_test: of the network that it started from.
        points: the networks of all cycles. seconds: of the whole run.
    """

    name: str
    seed: int
    dense_elements: int
    dense_validation: float
    dense_test: float
    points: tuple[Point, ...]
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """Read what `write` wrote."""
        found = json.loads(path.read_text())
        return cls(**{**found, "points": tuple(Point(**point) for point in found["points"])})

    def write(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        written(path, lambda place: place.write_text(json.dumps(asdict(self), indent=1)))

    def smallest_within(self, drop: float) -> Point | None:
        """Return the smallest network whose validation accuracy is at most ``drop`` below dense."""
        within = [point for point in self.points if point.validation >= self.dense_validation - drop]
        return max(within, key=lambda point: point.ratio, default=None)


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how.

    Attributes:
        name: of the run's folder. build: makes the dense network.
        data: its images, on the device. dense: how it is trained. squeezed: how each phase trains.
        goals: what the cycles go for, one after the other: the number of the last cycle, and the ratio it is to reach.
        options: more arguments of `SqueezeRelease`. The dense network always teaches.
        copies: on how many changed copies of the images, where training changes them.
    """

    name: str
    build: Build
    data: Data
    dense: Loop
    squeezed: Schedule
    goals: Sequence[tuple[int, float]]
    options: dict[str, Any]
    copies: int = 1

    def place(self, folder: Path, seed: int) -> Path:
        """Return the folder, made where it was not, in which a seed is kept."""
        found = folder / self.name / f"seed-{seed}"
        found.mkdir(parents=True, exist_ok=True)
        return found

    def run(self, folder: Path, seed: int, dense: Path | None = None) -> Outcome:
        """Run one seed, or go on with it; what is finished is not done again.

        Args:
            folder: everything is kept below it, in a folder of the recipe's name and the seed.
            seed: of the first weights, the batches and the cycles.
            dense: the folder of a run whose dense network it starts from; by default it trains its own.
        """
        place = self.place(folder, seed)
        if (finished := place / OUTCOME).exists():
            return Outcome.read(finished)
        if dense is not None and not (place / _DENSE).exists():
            shutil.copy(dense / _DENSE, place / _DENSE)
        start = time.perf_counter()
        module = self.trained_dense(place, seed)
        outcome = self._squeezed(module, place, seed, start)
        outcome.write(finished)
        return outcome

    def trained_dense(self, place: Path, seed: int) -> nn.Module:
        """Return the dense network, trained once and kept."""
        torch.manual_seed(seed)
        module = self.build().to(self.data.training.inputs.device)
        kept = place / _DENSE
        if kept.exists():
            module.load_state_dict(torch.load(kept, weights_only=True))
            return module.eval()
        start = time.perf_counter()
        self.dense.fit(module, self.data.training, seed, place / "training.pt")
        found = accuracy(module, self.data.validation)
        print(
            f"{self.name} seed {seed}: dense {found:.2%} on validation, {time.perf_counter() - start:.0f} s", flush=True
        )
        written(kept, lambda path: torch.save(module.state_dict(), path))
        return module.eval()

    def _front(self, cycle: SqueezeRelease) -> Sequence[Cycle]:
        """Go for one goal after the other and return all cycles; goals that an interrupted run has reached are done."""
        for cycles, ratio in self.goals:
            if cycle.front is None or cycle.front.front[-1].cycle < cycles:
                cycle.run(cycles=cycles, target_ratio=ratio)
        assert cycle.front is not None
        return cycle.front.front

    def _lessons(self, module: nn.Module, place: Path) -> Tensor:
        """Return what the dense network teaches, found once and kept."""
        from onnxsqueeze.training import lessons

        inputs, kept = self.data.training.inputs, place / "lessons.pt"
        return lessons(module, inputs, augment=self.dense.augment, copies=self.copies, path=kept)

    def _squeezed(self, module: nn.Module, place: Path, seed: int, start: float) -> Outcome:
        from onnxsqueeze.training import SqueezeRelease

        data, workdir, taught = self.data, place / "cycles", self._lessons(module, place)

        def train(network: nn.Module, phase: Phase) -> None:
            checkpoint = place / f"phase-{phase.cycle}-{phase.kind}-{phase.seed}.pt"
            self.squeezed(phase).fit(network, data.training, phase.seed, checkpoint, taught)
            checkpoint.unlink(missing_ok=True)

        def evaluate(network: nn.Module) -> float:
            return accuracy(network, data.validation)

        if (workdir / "state.json").exists():
            cycle = SqueezeRelease.resume(workdir, train=train, evaluate=evaluate)
        else:
            cycle = SqueezeRelease(
                module,
                (data.training.inputs[:2],),
                train=train,
                evaluate=evaluate,
                workdir=workdir,
                seed=seed,
                calibration=data.training.inputs[:_CALIBRATION],
                **self.options,
            )
        front = self._front(cycle)
        dense = place / "cycles" / "dense.onnx"
        dense_elements, dense_validation = elements_of(dense), accuracy_of(dense, data.validation)
        points = []
        for entry in front:
            path = Path(entry.onnx_path)
            elements = elements_of(path)
            validation, test = accuracy_of(path, data.validation), accuracy_of(path, data.test)
            points.append(Point(entry.cycle, elements, dense_elements / elements, validation, test))
        seconds = time.perf_counter() - start
        test = accuracy_of(dense, data.test)
        return Outcome(self.name, seed, dense_elements, dense_validation, test, tuple(points), seconds)


def elements_of(path: Path) -> int:
    """Return the weight elements of an ONNX file, as `onnxsqueeze inspect` counts them."""
    from onnxsqueeze.model.counting import weight_elements
    from onnxsqueeze.model.loading import load

    return weight_elements(load(path))


def accuracy_of(path: Path, images: Images) -> float:
    """Return the share of images that an ONNX file labels rightly in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    inputs, labels = images.inputs.cpu().numpy(), images.labels.cpu().numpy()
    starts = range(0, len(labels), _TEST_BATCH)
    found = [session.run(None, {name: inputs[start : start + _TEST_BATCH]})[0].argmax(1) for start in starts]
    return float((np.concatenate(found) == labels).mean())
