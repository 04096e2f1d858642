"""The Squeeze-Release cycle: mask what matters least, train, minimize exactly, and go on with the smaller network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from onnx import ModelProto
from torch import nn

from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.named_tensors import check_patterns
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.training.cycle.announcing import Announcer
from onnxsqueeze.training.cycle.calibration import check_batches, given_batches
from onnxsqueeze.training.cycle.checking import check_example, check_loop, check_runs, in_order
from onnxsqueeze.training.cycle.front import Best, best, points
from onnxsqueeze.training.cycle.processes import Processes, chosen_device
from onnxsqueeze.training.cycle.publishing import publish
from onnxsqueeze.training.cycle.settings import Cost, Goal, Likelihood, Settings, goal_of
from onnxsqueeze.training.cycle.stages import Evaluate, Stages, Train, squeeze_settings
from onnxsqueeze.training.cycle.state import State
from onnxsqueeze.training.cycle.targets import Attempt, missed, next_attempt
from onnxsqueeze.training.cycle.workdir import DENSE, UNDERWAY, Workdir
from onnxsqueeze.training.export.returned import Form
from onnxsqueeze.training.module import OnnxModule, from_onnx

Source = nn.Module | ModelProto | str | os.PathLike[str]
Example = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


class SqueezeRelease:
    """Cycles of squeezing and releasing a trained network, in a folder from which they can go on at any time.

    ::

        cycle = SqueezeRelease(model, example_inputs, train=my_train, evaluate=my_evaluate, workdir="run/")
        best = cycle.run(cycles=8, max_drop=0.005)
        best.onnx_path, best.ratio, best.metric

    Under ``torchrun`` every process makes the same calls. The first one decides, minimizes and writes; all train.
    """

    def __init__(
        self,
        model: Source,
        example_inputs: Example | None,
        train: Train,
        evaluate: Evaluate,
        workdir: str | os.PathLike[str],
        *,
        criterion: str = "units",
        teacher: bool | Literal["loop"] = False,
        release: bool | Literal["alternate"] = True,
        cost: Cost = "parameters",
        share: float = 0.4,
        seed: int = 0,
        calibration: Any = None,
        dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
        likelihood: Likelihood = "auto",
        round_to: str | int = "auto",
        change: float = 0.01,
        wrap: bool = True,
        sparing: float | None = None,
        device: str | torch.device | None = None,
        progress: bool = True,
        **options: Any,
    ) -> None:
        """Take a trained network and the loops that train and evaluate it; the network is not changed.

        Args:
            model: an ``nn.Module``, masks of ``torch.nn.utils.prune`` included; the path of an ONNX file; a ModelProto.
            example_inputs: what to call the model with: a tensor, several in a sequence, or by name. A module is
                exported with them; None does for ONNX.
            train: ``train(module, phase)``, your loop over an ordinary module in train mode, on the device. Masks hold
                by themselves. It changes the parameters in place and leaves the module in train mode.
            evaluate: ``evaluate(module) -> float``, larger is better; the module comes in eval mode.
            workdir: the folder of the run; it must not hold another one.
            criterion: what decides which weights go; "units" removes whole units. See `criteria_names`.
            teacher: True adds a distillation loss from the dense network to whatever the loop's loss is; "loop" only
                hands that network to the loop as ``phase.teacher``.
            release: whether the zeros left inside a minimized network become trainable again, as small noise, before
                the next cycle: True, False, or "alternate" for every second cycle.
            cost: what a unit's worth is divided by: "parameters", "macs", or "latency", which is measured anew for
                each network and depends on the machine.
            share: the part of the elements that a cycle removes, where no ratio says more.
            seed: of all that is drawn by chance.
            calibration: inputs for scores: a tensor, a tuple of one for each input, or an iterable of such batches, of
                which the first 1,024 samples count; by default what the loops feed the module.
            dynamic_shapes: of a module, which sizes of its inputs may vary, as for `export_masked`;
                by default the batch.
            likelihood: what the outputs mean for scores and distillation: "categorical" scores of classes,
                "probabilities", "gaussian" for regression, or "auto" to tell by the outputs.
            round_to: for minimized.onnx as in `onnxsqueeze.minimize`: "auto" for the fastest, 1 for the smallest.
            change: the relative change of the outputs that released noise makes.
            wrap: whether the module comes wrapped in DistributedDataParallel under torchrun.
            sparing: weight of a penalty on what each channel is read by, under which units die in the training of what
                was released; None: 0.001 with release and a criterion of single weights, else 0.
            device: by default the GPU, if there is one.
            progress: whether to write a line per cycle, and a bar on a terminal, to stderr.
            **options: further fields of `SqueezeSettings`.

        Raises:
            UsageError: for arguments that cannot be followed, example inputs that do not fit, a workdir that cannot be
                written to or holds another run, a module that cannot be exported.
            InvalidModelError: for an ONNX file that cannot be read.
        """
        settings = Settings(
            criterion=criterion,
            teacher=teacher,
            release=release,
            cost=cost,
            share=share,
            seed=seed,
            likelihood=likelihood,
            round_to=round_to,
            change=change,
            wrap=wrap,
            sparing=sparing,
            options=options,
        )
        squeeze_settings(settings)
        self._set_up(train, evaluate, workdir, device, progress)
        self._state = self._stages.processes.on_main(
            lambda: self._first_state(model, example_inputs, settings, calibration, dynamic_shapes)
        )

    @classmethod
    def resume(
        cls,
        workdir: str | os.PathLike[str],
        train: Train,
        evaluate: Evaluate,
        *,
        device: str | torch.device | None = None,
        progress: bool = True,
    ) -> SqueezeRelease:
        """Go on with a run that was interrupted or is to go further, with the settings that it was begun with.

        Raises:
            UsageError: when no run was begun in the workdir, or files of it are gone.
        """
        found = cls.__new__(cls)
        found._set_up(train, evaluate, workdir, device, progress)
        found._state = found._stages.processes.on_main(found._stages.workdir.load_state)
        return found

    @staticmethod
    def can_resume(workdir: str | os.PathLike[str]) -> bool:
        """Whether a run was begun in the workdir, so that `resume` can go on with it."""
        return Workdir(workdir).holds_run

    def run(
        self,
        cycles: int | None = None,
        max_drop: float | None = None,
        target_ratio: float | None = None,
        *,
        goals: Sequence[Goal | Mapping[str, Any]] = (),
    ) -> Best:
        """Run cycles until the goal is reached, or none of it can be.

        Args:
            cycles: at most so many; 8 by default.
            max_drop: how much worse than the dense network the metric may be; 0.005 by default. A cycle that falls
                below is given up, and the last network within it is tried again with half the share.
            target_ratio: the dense network's weight elements by those of the file wanted, in equal steps over all
                cycles. Without ``max_drop`` it is aimed at whatever the metric does.
            goals: several, one after the other, instead of those three; each a `Goal` or a mapping of the same three
                names. The cycles of each count from the beginning of the run.

        A resumed run goes on with the goals that it had, except for what is given here.

        Returns:
            The smallest network within the allowed drop. Where the ratio is not reached, its ``missed`` says so.

        Raises:
            UsageError, SqueezeError: for loops that break the module or do not return a number.
        """
        stages = self._stages
        self._commit(_aimed(self._state, (cycles, max_drop, target_ratio), goals))
        if self._state.records:
            self._publish()  # what a process that was killed may not have come to
        else:
            self._commit(stages.dense(self._state))
            self._finished_cycle()
        while True:
            if self._state.underway is None:
                attempt = next_attempt(self._state)
                if isinstance(attempt, Attempt):
                    self._commit(stages.begin(self._state, attempt))
                else:
                    found = self._ended(attempt)
                    if not self._state.later:
                        return found
                    goal, *later = self._state.later
                    self._commit(replace(self._state, goal=goal, later=tuple(later)))
                    continue
            self._advance()

    @property
    def dense_elements(self) -> int:
        """The weight elements of the network that was given."""
        return self._state.dense_elements

    @property
    def front(self) -> Best | None:
        """The best network so far, with all others; None before the dense network was evaluated."""
        return best(points(self._state, self._stages.workdir.folder)) if self._state.records else None

    def _ended(self, why: str) -> Best:
        """Say how far a goal was reached."""
        state, stages = self._state, self._stages
        found = best(points(state, stages.workdir.folder))
        found = replace(found, missed=missed(state, found.ratio, why))
        said = f"best: {found.onnx_path} ({found.ratio:.2f}x, metric {found.metric:.5g})"
        stages.announcer.say(f"{found.missed or why}; {said}")
        return found

    def _advance(self) -> None:
        """Do the next stage of the cycle under way."""
        stages, underway, finished = self._stages, self._state.underway, len(self._state.records)
        assert underway is not None
        following = {
            "begun": stages.loosen,
            "loosened": stages.train_loosened,
            "ready": stages.squeeze,
            "squeezed": stages.train_squeezed,
            "trained": stages.minimize,
            "minimized": stages.finish,
        }
        self._commit(following[underway.stage](self._state, underway))
        if len(self._state.records) > finished:
            self._finished_cycle()

    def _commit(self, state: State) -> None:
        """Make a state the one to resume from, then remove what only earlier ones needed."""
        self._state = state
        workdir = self._stages.workdir

        def write() -> None:
            workdir.save_state(state)
            workdir.sweep(state)

        self._stages.processes.on_main(write)

    def _finished_cycle(self) -> None:
        self._publish()
        self._stages.announcer.cycle(self._state, self._state.records[-1])

    def _publish(self) -> None:
        state, stages = self._state, self._stages
        stages.processes.on_main(lambda: publish(state, stages.workdir, stages.announcer))

    def _set_up(
        self,
        train: Train,
        evaluate: Evaluate,
        workdir: str | os.PathLike[str],
        device: str | torch.device | None,
        progress: bool,
    ) -> None:
        """Check and make what a new run and a resumed one share."""
        check_loop("train", train, ("module", "phase"))
        check_loop("evaluate", evaluate, ("module",))
        if not isinstance(workdir, (str, os.PathLike)) or not os.fspath(workdir):
            raise UsageError(f"workdir={workdir!r}: give the path of a folder")
        processes = Processes()
        folder = Workdir(Path(workdir).absolute())
        processes.on_main(folder.prepare)
        announcer = Announcer(progress and processes.main)
        self._stages = Stages(train, evaluate, folder, processes, chosen_device(device, processes), announcer)

    def _first_state(
        self, model: Source, example: Example | None, settings: Settings, calibration: Any, dynamic_shapes: Any
    ) -> State:
        """Write dense.onnx and return the state of a run that has not begun."""
        workdir = self._stages.workdir
        workdir.refuse_other_run()
        returns = _write_dense(model, example, workdir, dynamic_shapes)
        dense = load(workdir.path(DENSE))
        if keep := settings.options.get("keep"):
            check_patterns("keep", keep, analyse(dense).context.shapes)
        module = from_onnx(workdir.path(DENSE))
        inputs = module.input_names
        exported = isinstance(model, nn.Module) and not isinstance(model, OnnxModule)  # and checked by that
        if example is not None and not exported:
            values = in_order(example, inputs)
            check_example(dense, values)
            check_runs(module, values)
        name = None
        if calibration is not None:
            batches = given_batches(calibration, len(inputs), inputs)
            check_batches(module, batches)
            name = workdir.save_batches(f"{UNDERWAY}/calibration.pt", batches)
        return State(
            settings, Goal(), weight_elements(dense), name, given_calibration=name is not None, returns=returns
        )


def _aimed(state: State, one: tuple[int | None, float | None, float | None], several: Sequence[Any]) -> State:
    """Return the state with the goals that are given, else with those that it had."""
    given = any(value is not None for value in one)
    if several and given:
        raise UsageError("give goals=, or cycles=, max_drop= and target_ratio=, not both")
    if not several:
        return replace(state, goal=state.goal.changed(*one), later=() if given else state.later)
    goal, *later = [goal_of(value) for value in several]
    return replace(state, goal=goal, later=tuple(later))


def _write_dense(model: Source, example: Example | None, workdir: Workdir, dynamic_shapes: Any) -> Form:
    """Write the network that all others are compared with, and return how it returns its outputs."""
    path = workdir.path(DENSE)
    exports = isinstance(model, nn.Module) and not isinstance(model, OnnxModule)
    if dynamic_shapes is not None and not exports:
        raise UsageError("dynamic_shapes: an ONNX file says by itself which sizes vary; they are for modules")
    if isinstance(model, OnnxModule):
        workdir.save_model(DENSE, model.write_back())
    elif isinstance(model, nn.Module):
        if example is None:
            raise UsageError("example_inputs: give the tensors that your module takes, to export it with")
        from onnxsqueeze.training.export.export import export_masked, returned_form

        export_masked(model, example, path, keep_dropout=True, dynamic_shapes=dynamic_shapes)
        return returned_form(model, example)
    elif isinstance(model, ModelProto | str | os.PathLike):
        workdir.save_model(DENSE, load(model))
    else:
        raise UsageError(f"model: give an nn.Module or the path of an ONNX file, not {type(model).__name__}")
    return None
