"""The stages of a cycle. Each reads finished files, writes new ones, and returns the state that names them.

No stage hands anything on in memory. So a run that is killed and resumed does what an undisturbed one does.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.model import Model
from onnxsqueeze.training.criteria import UNITS, criterion_named
from onnxsqueeze.training.cycle.announcing import Announcer
from onnxsqueeze.training.cycle.calibration import captured
from onnxsqueeze.training.cycle.checking import Before, metric_of
from onnxsqueeze.training.cycle.minimization import (
    NETWORK,
    REFUSED,
    Written,
    stored_elements,
    write_minimized,
    write_network,
)
from onnxsqueeze.training.cycle.phase import Phase, phase_seed, seed_everything
from onnxsqueeze.training.cycle.processes import Processes
from onnxsqueeze.training.cycle.refusal import Accepted
from onnxsqueeze.training.cycle.settings import Settings
from onnxsqueeze.training.cycle.state import Record, State, Underway
from onnxsqueeze.training.cycle.targets import Attempt
from onnxsqueeze.training.cycle.workdir import DENSE, UNDERWAY, Batch, Workdir
from onnxsqueeze.training.export.returned import give_back, returning
from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.squeezing.distillation import distilled
from onnxsqueeze.training.squeezing.elements_left import elements_left, remaining
from onnxsqueeze.training.squeezing.release import release
from onnxsqueeze.training.squeezing.schedule import cubic_targets
from onnxsqueeze.training.squeezing.sparing import sparing
from onnxsqueeze.training.squeezing.squeeze import SqueezeSettings, squeeze

WORTH_TRAINING = 0.01
"""Zeros that are less than this share of a network are released without a training of their own before the squeeze."""
WORTH_RELEASING = 1e-4
"""Zeros that are less than this share of a network are there by chance and stay: noise for them costs more."""
Train = Callable[[nn.Module, Phase], object]
Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Stages:
    """All that the stages share.

    Attributes:
        train, evaluate: the user's loops.
        workdir, processes, device, announcer: where files, decisions, tensors and lines go.
    """

    train: Train
    evaluate: Evaluate
    workdir: Workdir
    processes: Processes
    device: torch.device
    announcer: Announcer

    def dense(self, state: State) -> State:
        """Evaluate the given network, and minimize what its own zeros allow."""
        metric, batches, seconds = self._evaluated(DENSE, state, 0)

        def finish() -> State:
            folder = self.workdir.cycle(0)
            calibration = state.calibration or self._kept(0, "evaluate", batches)
            with self._working("minimizing", state):
                started = time.perf_counter()
                sizes = write_minimized(self.workdir, DENSE, folder, state.settings.round_to)
                spent = {**seconds, "minimize": time.perf_counter() - started}
            pinned = self._pinned(state, 0, DENSE, sizes)
            module = from_onnx(self.workdir.path(f"{folder}/{NETWORK}"))
            record = Record(
                cycle=0,
                base=0,
                share=0.0,
                target=state.dense_elements,
                elements=sizes.elements,
                network_elements=sizes.network_elements,
                left=elements_left(module),
                ratio=state.dense_elements / max(1, sizes.elements),
                metric=metric,
                refusal=sizes.refusal,
                seconds=spent,
            )
            return replace(state, calibration=calibration, records=(record,), pinned=pinned)

        return self.processes.on_main(finish)

    def begin(self, state: State, attempt: Attempt) -> State:
        """Start a cycle from the network of an earlier one."""
        underway = Underway(
            cycle=attempt.cycle,
            base=attempt.base,
            share=attempt.share,
            target=attempt.target,
            stage="begun",
            network=f"cycle-{attempt.base:02d}/{NETWORK}",
        )
        return replace(state, underway=underway)

    def loosen(self, state: State, cycle: Underway) -> State:
        """Let the exact zeros that the last cycle has left become small noise, if this cycle is to do that."""
        settings = state.settings
        without = "ready"
        if _needs_training(settings) or settings.releases(cycle.cycle) and settings.spares(cycle.cycle):
            without = "loosened"
        if not state.settings.releases(cycle.cycle):
            return replace(state, underway=cycle.after(without, {}))

        def work() -> State:
            with self._working(f"cycle {cycle.cycle}: releasing", state):
                started = time.perf_counter()
                module = from_onnx(self.workdir.path(cycle.network), device=self.device)
                generator = _generator(state, cycle, "noise")
                least = math.ceil(WORTH_RELEASING * state.record(cycle.base).network_elements)
                report = release(module, state.settings.change, self._batches(state), generator, least=least)
                seconds = {"noise": time.perf_counter() - started}
                if not report.total:
                    return replace(state, underway=cycle.after(without, seconds))
                name = self.workdir.save_model(f"{UNDERWAY}/{cycle.cycle}-noisy.onnx", module.write_back())
            few = report.total < WORTH_TRAINING * state.record(cycle.base).network_elements
            stage = without if few else "loosened"
            return replace(state, underway=cycle.after(stage, seconds, network=name, released=report.total))

        return self.processes.on_main(work)

    def train_loosened(self, state: State, cycle: Underway) -> State:
        """Train before anything is masked."""
        return self._trained(state, cycle, "release" if cycle.released else "prepare", 1)

    def squeeze(self, state: State, cycle: Underway) -> State:
        """Choose what goes, mask it, and minimize at once, so that only what stays is trained."""

        def work() -> State:
            with self._working(f"cycle {cycle.cycle}: choosing what goes", state):
                started = time.perf_counter()
                module = held(self.workdir.path(cycle.network), self.device)
                if not self._choose(module, state, cycle) and not cycle.step:
                    return replace(state, underway=None, exhausted=cycle.base)
                name = f"{UNDERWAY}/{cycle.cycle}-masked-{cycle.step}.onnx"
                self.workdir.save_model(name, module.write_back())
                masked = time.perf_counter()
                smaller = f"{UNDERWAY}/{cycle.cycle}-squeezed-{cycle.step}.onnx"
                found = write_network(self.workdir, name, smaller, state.pinned)
                seconds = {"squeeze": masked - started, "minimize": time.perf_counter() - masked}
            refusal = found.refusal or cycle.refusal
            done = cycle.after("squeezed", seconds, network=smaller, start=None, refusal=refusal)
            return replace(state, underway=done, pinned=self._pinned(state, cycle.cycle, name, found))

        return self.processes.on_main(work)

    def _choose(self, module: OnnxModule, state: State, cycle: Underway) -> bool:
        """Mask what goes; return whether anything does that the last cycle has left.

        The target is of the file, in which zeros are stored, too. With whole units what is left falls by the same
        factor; of single weights it takes as many as leave a file of that size, which may be fewer than were masked
        before a release.
        """
        base = state.record(cycle.base)
        settings = squeeze_settings(state.settings)
        single = state.settings.single
        elements = base.network_elements if single else base.left
        final = round(elements * min(1.0, cycle.target / base.elements))
        target = max(1, cubic_targets(elements, final, settings.steps)[cycle.step])
        start = None
        if cycle.start is not None:
            before = from_onnx(self.workdir.path(cycle.start), device=self.device)
            start = {name: parameter.detach() for name, parameter in before.initializers.items()}
        generator = _generator(state, cycle, "score")
        stored = stored_elements if single else None
        settings = replace(settings, steps=1)
        found = squeeze(module, target, settings, self._batches(state), generator, start=start, stored=stored)
        return found.left < base.network_elements if single else elements_left(module) < base.left

    def train_squeezed(self, state: State, cycle: Underway) -> State:
        """Train what is left."""
        return self._trained(state, cycle, "squeeze", squeeze_settings(state.settings).steps)

    def minimize(self, state: State, cycle: Underway) -> State:
        """Make the masked network a smaller one."""

        def work() -> State:
            with self._working(f"cycle {cycle.cycle}: minimizing", state):
                started = time.perf_counter()
                folder = self.workdir.cycle(cycle.cycle)
                sizes = write_minimized(self.workdir, cycle.network, folder, state.settings.round_to, state.pinned)
                seconds = {"minimize": time.perf_counter() - started}
            done = cycle.after(
                "minimized",
                seconds,
                network=f"{folder}/{NETWORK}",
                elements=sizes.elements,
                network_elements=sizes.network_elements,
                refusal=sizes.refusal or cycle.refusal,
            )
            return replace(state, underway=done, pinned=self._pinned(state, cycle.cycle, cycle.network, sizes))

        return self.processes.on_main(work)

    def finish(self, state: State, cycle: Underway) -> State:
        """Evaluate the smaller network; the cycle is finished."""
        metric, _, seconds = self._evaluated(cycle.network, state, cycle.cycle)

        def work() -> State:
            record = Record(
                cycle=cycle.cycle,
                base=cycle.base,
                share=cycle.share,
                target=cycle.target,
                elements=cycle.elements,
                network_elements=cycle.network_elements,
                left=elements_left(from_onnx(self.workdir.path(cycle.network))),
                ratio=state.dense_elements / max(1, cycle.elements),
                metric=metric,
                released=cycle.released,
                refusal=cycle.refusal,
                seconds={**cycle.seconds, **seconds},
            )
            return replace(state, records=(*state.records, record), underway=None)

        return self.processes.on_main(work)

    def _pinned(self, state: State, cycle: int, masked: str, found: Written | Accepted) -> tuple[str, ...]:
        """Return what stays whole from now on; where a smaller network was refused, say so and keep its origin."""
        if not found.refusal:
            return state.pinned
        name = self.workdir.save_model(f"{self.workdir.cycle(cycle)}/{REFUSED}", self.workdir.load_model(masked))
        new = [pin for pin in found.pinned if pin not in state.pinned]
        stays = f"{', '.join(new)} stay whole" if new else "it stays as it is"
        self.announcer.say(
            f"cycle {cycle}: {self.workdir.path(name)} was minimized to a different function and that refused: "
            f"{found.refusal}; {stays}, and the run goes on; please report it with this file"
        )
        return found.pinned

    def _trained(self, state: State, cycle: Underway, kind: str, steps: int) -> State:
        """NodeCall the user's training loop, check what it leaves behind, and write the network."""
        module = self._module(cycle.network)
        phase = self._phase(state, cycle, kind, steps)
        before = Before.of(module)
        module.train()
        seed_everything(phase.seed)
        started = time.perf_counter()
        with captured(module) as capture, self._taught(module, phase, state.settings), _spared(module, phase, state):
            with returning(module, state.returns):
                returned = self.train(self._wrapped(module, state.settings.wrap), phase)
            self._synchronise()
        seconds = {f"train {kind}": time.perf_counter() - started}
        where = f"cycle {cycle.cycle}, {kind} phase"
        self.processes.agree(before.problem(module, where))
        if said := before.warning(module, returned):
            warnings.warn(f"train, {where}: {said}", stacklevel=2)

        def keep() -> State:
            calibration = state.calibration
            if capture.batches and not state.given_calibration:
                calibration = self._kept(cycle.cycle, f"{kind}-{phase.step}", capture.batches)
            done = self._after_training(cycle, phase, state.settings, module, seconds)
            return replace(state, calibration=calibration, underway=done)

        return self.processes.on_main(keep)

    def _after_training(
        self, cycle: Underway, phase: Phase, settings: Settings, module: OnnxModule, seconds: dict[str, float]
    ) -> Underway:
        """Write a trained network, and say what comes next: another step, or the end of the cycle's training."""
        start = cycle.network if _needs_training(settings) else None
        if phase.kind == "squeeze" and phase.step == phase.steps:
            name = self.workdir.save_model(f"{self.workdir.cycle(cycle.cycle)}/masked.onnx", module.write_back())
            return cycle.after("trained", seconds, network=name)
        name = self.workdir.save_model(f"{UNDERWAY}/{cycle.cycle}-{phase.kind}-{phase.step}.onnx", module.write_back())
        step = phase.step if phase.kind == "squeeze" else 0
        return cycle.after("ready", seconds, network=name, step=step, start=start)

    def _taught(self, module: OnnxModule, phase: Phase, settings: Settings) -> AbstractContextManager[object]:
        """Add the loss of distillation to whatever the loop's loss is, if that was asked for."""
        if phase.teacher is None or settings.teacher is not True:
            return nullcontext()
        return distilled(module, phase.teacher, likelihood=squeeze_settings(settings).likelihood)

    def _evaluated(self, name: str, state: State, cycle: int) -> tuple[float, list[Batch], dict[str, float]]:
        """Return the metric of a network as the first process measures it, the first batches, and the seconds."""
        module = self._module(name)
        module.eval()
        seed_everything(phase_seed(state.settings.seed, cycle, "evaluate"))
        started = time.perf_counter()
        with captured(module) as capture, returning(module, state.returns):
            value: Any = self.evaluate(module)
        seconds = {"evaluate": time.perf_counter() - started}
        where = f"cycle {cycle}" if cycle else "the dense network"
        return self.processes.on_main(lambda: metric_of(value, where)), capture.batches, seconds

    def _module(self, name: str) -> OnnxModule:
        """Return a network that the first process reads, with its zeros held; all get the same."""
        return held(self.processes.on_main(lambda: self.workdir.load_model(name)), self.device)

    def _phase(self, state: State, cycle: Underway, kind: str, steps: int) -> Phase:
        teacher: OnnxModule | None = None
        if state.settings.teacher:
            teacher = self._module(DENSE).eval().requires_grad_(False)
            give_back(teacher, state.returns)
        return Phase(
            kind=kind,
            cycle=cycle.cycle,
            cycles=state.goal.cycles,
            step=cycle.step + 1,
            steps=steps,
            seed=phase_seed(state.settings.seed, cycle.cycle, kind, cycle.step),
            workdir=self.workdir.path(self.workdir.cycle(cycle.cycle)),
            target=state.dense_elements / cycle.target,
            teacher=teacher,
            device=self.device,
        )

    def _wrapped(self, module: OnnxModule, wrap: bool) -> nn.Module:
        if self.processes.size == 1 or not wrap:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def _batches(self, state: State) -> list[Batch]:
        return self.workdir.load_batches(state.calibration) if state.calibration else []

    def _kept(self, cycle: int, kind: str, batches: list[Batch]) -> str | None:
        name = f"{UNDERWAY}/{cycle}-{kind}-batches.pt"
        return self.workdir.save_batches(name, batches) if batches else None

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _working(self, what: str, state: State) -> Any:
        return self.announcer.working(what, max(0, len(state.records) - 1), state.goal.cycles)


def held(source: Model | Path, device: torch.device) -> OnnxModule:
    """Return a network of which the exact zeros of matrices and kernels stay zeros."""
    module = from_onnx(source, device=device)
    module.set_masks(remaining(module))
    return module


def squeeze_settings(settings: Settings) -> SqueezeSettings:
    """Return how a squeeze is done; positions are units by themselves where the smallest file is wanted.

    Raises:
        UsageError: for settings that there are not.
    """
    known = {field.name for field in fields(SqueezeSettings)}
    for name in settings.options:
        if name not in known:
            raise UsageError(f"there is no option {name!r}; choose of {', '.join(sorted(known))}")
    options = {"positions": settings.round_to != "auto", **settings.options}
    return SqueezeSettings(criterion=settings.criterion, cost=settings.cost, likelihood=settings.likelihood, **options)


def _spared(module: OnnxModule, phase: Phase, state: State) -> AbstractContextManager[object]:
    """Let units die in all trainings but the last, after which nothing goes any more."""
    weight = state.settings.spares(phase.cycle)
    last = phase.kind == "squeeze" and phase.cycle == phase.cycles and not state.later
    return nullcontext() if last or not weight else sparing(module, weight)


def _generator(state: State, cycle: Underway, kind: str) -> torch.Generator:
    """Return a generator on the CPU for what one stage draws by chance."""
    return torch.Generator().manual_seed(phase_seed(state.settings.seed, cycle.cycle, kind, cycle.step))


def _needs_training(settings: Settings) -> bool:
    """Whether the criterion looks at what training does to the weights."""
    return settings.criterion != UNITS and criterion_named(settings.criterion).needs_training
