"""Deploy a model: write what a runtime loads, run that, and say how far it deviates from the model."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from onnxsqueeze._version import __version__
from onnxsqueeze.deployment.deviation import Accuracy, Deviation, IncomparableError, accuracy, deviation, judged
from onnxsqueeze.deployment.folder import appearing_folder, usable_folder
from onnxsqueeze.deployment.manifest import Manifest, files_in
from onnxsqueeze.deployment.quantization import QuantizationError, need_float32, to_float16, to_int8
from onnxsqueeze.deployment.running import Ran, convert_and_run
from onnxsqueeze.deployment.runs import Runs, drawn_runs, fixed_sizes, sample_runs
from onnxsqueeze.deployment.targets import FLOAT16, INT8, TARGETS, UNCHANGED, Target
from onnxsqueeze.errors import DeploymentError, SqueezeError, UsageError, one_line
from onnxsqueeze.model.files import InputFiles, files_of_model
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.saving import save
from onnxsqueeze.pipeline.minimize import minimize
from onnxsqueeze.runtimes import RUNTIMES, Conversion, NotInstalledError, Runtime
from onnxsqueeze.verification import VerifyReport
from onnxsqueeze.verification.cases import Request
from onnxsqueeze.verification.difference import largest_plausible
from onnxsqueeze.verification.dimension_sizes import SizePlan, Sizes
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.randomness import random_operators
from onnxsqueeze.verification.report import VerificationError
from onnxsqueeze.verification.sessions import RefusedError, Session
from onnxsqueeze.verification.signature import signature_difference

Progress = Callable[[str, float | None], None]
"""Is told what is being done, and which fraction of that lies behind where it is known."""


@dataclass(frozen=True)
class Options:
    """How to deploy.

    Attributes:
        precision: ``unchanged`` for the model as it is, ``float16`` or ``int8``.
        calibrate: an npz file to calibrate int8 with: an array for each input, and ``labels`` where accuracies are
            wanted. The deviation is measured on it too, unless there are `inputs`.
        inputs: an npz file of that kind to measure on; else inputs are drawn at random.
        samples: how many inputs to draw at each of the sizes tried.
        dims: sizes of dynamic dimensions by name.
        input_shapes: shapes of inputs by name.
        timeout: seconds that converting and running may take in each runtime.
    """

    precision: str = UNCHANGED
    calibrate: Path | None = None
    inputs: Path | None = None
    samples: int = 2
    dims: Mapping[str, int] = field(default_factory=dict)
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    timeout: float = 600.0


def deploy(
    source: str | os.PathLike[str],
    target: str,
    output: str | os.PathLike[str],
    options: Options = Options(),
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Write what a runtime loads, beside a manifest, into a folder that is there whole or not at all.

    What is written runs in that runtime, in a process of its own, and is compared with the model in onnxruntime.

    Args:
        source: the ONNX file, which is not changed.
        target: ``ort``, ``openvino``, ``ncnn``, ``litert`` or ``web``.
        output: the folder to make.
        options: how.
        force: replace the folder if it holds an earlier deployment and nothing else.
        progress: is told how far the work is.

    Returns:
        The manifest.

    Raises:
        UsageError: for an argument that cannot be followed, or a runtime that is not installed.
        InvalidModelError: when the model cannot be read or is not valid.
        DeploymentError: when onnxruntime, the runtime or its converter does not take the model.
        VerificationError: when what was written computes something else.
        SqueezeError: when it cannot be written.
    """
    if target not in TARGETS:
        raise UsageError(f"there is no target '{target}'; give one of {', '.join(TARGETS)}")
    path = Path(source)
    _check_precision(TARGETS[target], options)
    folder = usable_folder(Path(output), _read(path, options), force)
    model = Source(path, check=True)
    deployment = _Deployment(path, model, TARGETS[target], options, progress or (lambda step, fraction: None))
    with appearing_folder(folder) as hidden:
        return deployment.write(hidden)


def _check_precision(target: Target, options: Options) -> None:
    precision = options.precision
    if precision not in (UNCHANGED, FLOAT16, INT8):
        raise UsageError(f"there is no precision '{precision}'; give {UNCHANGED}, {FLOAT16} or {INT8}")
    if reason := target.refused.get(precision):
        raise UsageError(f"{target.name} cannot be given {precision}: {reason}")
    if precision == INT8 and options.calibrate is None:
        raise UsageError("--int8 needs samples to calibrate with: --calibrate FILE.npz with an array for each input")
    if precision != INT8 and options.calibrate is not None:
        raise UsageError("--calibrate is for --int8; samples to measure on are given with --inputs FILE.npz")


def _read(path: Path, options: Options) -> InputFiles:
    return InputFiles((path,), tuple(file for file in (options.calibrate, options.inputs) if file is not None))


class _Deployment:
    """One deployment under way."""

    def __init__(self, path: Path, source: Source, target: Target, options: Options, progress: Progress) -> None:
        self._path, self._source, self._target, self._options = path, source, target, options
        self._progress = progress
        self._notes: list[str] = []
        self._runtimes = list(self._installed())
        self._sizes = self._fixed_sizes()
        if names := random_operators(source.skeleton):
            raise UsageError(f"{path} draws random numbers ({', '.join(names)}), so that no deviation can be measured")

    def _installed(self) -> Iterator[tuple[Runtime, dict[str, str]]]:
        """Yield the runtimes of the target with their versions, and note which are left out."""
        for name in self._target.runtimes:
            runtime = RUNTIMES[name]
            try:
                yield runtime, runtime.versions()
            except NotInstalledError as error:
                missing = f"{runtime.title} is not installed: {error}; {runtime.install}"
                if name not in self._target.optional:
                    raise UsageError(missing) from None
                self._notes.append(f"not run in {runtime.title}: {error}")

    def _fixed_sizes(self) -> Sizes:
        """Return the size of each dynamic dimension if the runtime takes one size only."""
        for runtime, _ in self._runtimes:
            if runtime.one_shape:
                return fixed_sizes(self._source, self._options.dims, self._options.input_shapes, runtime.title)
        return {}

    def write(self, folder: Path) -> Manifest:
        """Write everything into a folder and return its manifest."""
        options = self._options
        self._progress("running the model", None)
        calibration, runs = self._runs()
        with TemporaryDirectory(prefix="onnxsqueeze-") as name:
            model = Path(name) / "model.onnx"
            self._progress(f"making the {options.precision} model", None)
            self._prepare(model, calibration)
            results = [(runtime, self._run(runtime, model, folder, runs)) for runtime, _ in self._runtimes]
        deviations = [self._compared(runtime, ran, folder, runs) for runtime, ran in results]
        measured = self._accuracy(runs, results[-1][1])
        self._progress("writing", None)
        manifest = Manifest(
            target=self._target.name,
            precision=options.precision,
            exact=options.precision == UNCHANGED,
            source=files_of_model(self._path),
            files=files_in(folder),
            versions=self._versions(),
            options=self._described_options(),
            deviations=tuple(deviations),
            accuracy=measured,
            notes=tuple(self._notes),
        )
        manifest.save(folder)
        return manifest

    def _runs(self) -> tuple[Runs | None, Runs]:
        """Return what to calibrate with, and what to measure on."""
        options, source = self._options, self._source
        try:
            session = Session(source, optimized=False)
        except RefusedError as error:
            raise DeploymentError(f"onnxruntime refuses {self._path}: {error}") from None
        given = {path for path in (options.calibrate, options.inputs) if path is not None}
        samples = {path: sample_runs(path, source, session, self._sizes) for path in given}
        calibration = samples[options.calibrate] if options.calibrate else None
        if measured := options.inputs or options.calibrate:
            return calibration, samples[measured]
        dims = {**options.dims, **self._sizes}
        return calibration, drawn_runs(source, session, Request(options.samples, None, dims, options.input_shapes))

    def _prepare(self, model: Path, calibration: Runs | None) -> None:
        """Write the ONNX model that the converters get."""
        precision = self._options.precision
        save(load(self._path, check=False), model)
        if precision == UNCHANGED:
            return
        made = model.with_name("made.onnx")
        try:
            need_float32(self._source, precision)
            if precision == FLOAT16 and self._target.converter_halves:
                return
            if calibration is not None:
                self._minimize(model)
                to_int8(model, made, calibration.feeds)
            else:
                to_float16(model, made)
        except QuantizationError as error:
            raise DeploymentError(f"{self._path}: {error}") from None
        if difference := signature_difference(self._source, Source(made)):
            raise DeploymentError(f"{self._path}: the {precision} model is not usable: {difference}")
        save(load(made), model)

    def _minimize(self, model: Path) -> None:
        """Minimize a model before it is quantized: constants fold as real numbers, and scales suit what is left."""
        try:
            result = minimize(model)
        except SqueezeError as error:
            self._notes.append(f"quantized without being minimized before: {one_line(error)}")
            return
        before, after = result.report.weights_before, result.report.weights_after
        if after < before:
            self._notes.append(f"minimized before it was quantized: {before:,} -> {after:,} weight elements")
            save(result.minimized, model)

    def _run(self, runtime: Runtime, model: Path, folder: Path, runs: Runs) -> Ran:
        self._progress(f"converting and running in {runtime.title}", None)
        half = self._options.precision == FLOAT16 and self._target.converter_halves
        conversion = Conversion(model, folder, self._shapes() if runtime.one_shape else {}, half)
        return convert_and_run(runtime, conversion, runs.feeds, self._options.timeout)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the one shape of each input."""
        return SizePlan.of(self._source.inputs, self._sizes, self._options.input_shapes).shapes({}) or {}

    def _compared(self, runtime: Runtime, ran: Ran, folder: Path, runs: Runs) -> Deviation:
        """Measure what was written, and refuse what is not even nearly the model."""
        named = f"{runtime.title} {runtime.version()}"
        file = ran.files[0].relative_to(folder).as_posix()
        wrong = f"{file} in {named} does not compute what {self._path} computes"
        allowed = largest_plausible(self._source.float_types)
        try:
            found = deviation(file, named, runs.described, runs.expected, ran.outputs)
        except IncomparableError as error:
            raise _wrong(f"{wrong}: {error}", math.inf, allowed) from None
        if self._options.precision != UNCHANGED:
            return found
        _, excess = judged(found, None, allowed)
        if excess:  # not before: it takes a run of the source
            allowed, excess = judged(found, self._rounding(runs), allowed)
            if excess:
                raise _wrong(f"{wrong}: {excess}", found.relative, allowed)
            self._notes.append(
                f"{file} in {named} deviates by {found.relative:.2g} of an output's scale, as far as {self._path.name} "
                "does from itself with graph optimizations on"
            )
        return found

    def _rounding(self, runs: Runs) -> Deviation | None:
        """Return how far the source deviates from itself with graph optimizations on; None if that cannot be told."""
        try:
            session = Session(self._source, optimized=True)
            outputs = [session.run(feeds) for feeds in runs.feeds]
            return deviation(self._path.name, "onnxruntime", runs.described, runs.expected, outputs)
        except (RefusedError, IncomparableError):
            return None

    def _versions(self) -> dict[str, str]:
        found = {"onnxsqueeze": __version__, "onnx": onnx.__version__}
        found["onnxruntime"] = RUNTIMES["onnxruntime"].version()
        for _, versions in self._runtimes:
            found.update(versions)
        return found

    def _described_options(self) -> dict[str, Any]:
        options = self._options
        given = {"calibrate": options.calibrate, "inputs": options.inputs}
        return {
            **{name: None if path is None else path.name for name, path in given.items()},
            "sizes": {**options.dims, **self._sizes},
            "input_shapes": {name: list(shape) for name, shape in options.input_shapes.items()},
        }

    def _accuracy(self, runs: Runs, ran: Ran) -> Accuracy | None:
        if runs.labels is None:
            return None
        found = accuracy(runs.labels, runs.expected, ran.outputs)
        if found is None:
            shape = list(runs.labels[0].shape)
            self._notes.append(f"no output has scores for labels of the shape {shape}, so no accuracy is given")
        return found


def _wrong(reason: str, found: float, allowed: float) -> VerificationError:
    return VerificationError(reason, VerifyReport(False, found, allowed, reason=reason))
