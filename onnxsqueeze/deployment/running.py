"""Convert and run a model in a process of its own, so that a runtime that crashes or hangs takes nothing with it."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from onnxsqueeze.errors import DeploymentError, UsageError
from onnxsqueeze.runtimes import Conversion, Runtime
from onnxsqueeze.runtimes.isolated.machine import usable_cores
from onnxsqueeze.runtimes.isolated.process import AbsentError, FailedError, Limits, perform
from onnxsqueeze.runtimes.isolated.task import Emit
from onnxsqueeze.verification.sessions import Values


@dataclass(frozen=True)
class Ran:
    """What a runtime made of a model.

    Attributes:
        files: what was written, the file that stands for all of them first.
        outputs: by name, for each of the inputs.
    """

    files: tuple[Path, ...]
    outputs: list[Mapping[str, Any]]


@dataclass(frozen=True)
class _ConvertAndRun:
    """Does so, and leaves what came of it in a file."""

    runtime: Runtime
    conversion: Conversion
    feeds: Sequence[Values]
    result: Path

    def perform(self, emit: Emit) -> None:
        files = self.runtime.convert(self.conversion)
        session = self.runtime.load(files, 1)
        self.result.write_bytes(pickle.dumps(Ran(files, [session.run(feed) for feed in self.feeds])))


def convert_and_run(runtime: Runtime, conversion: Conversion, feeds: Sequence[Values], seconds: float) -> Ran:
    """Write what a runtime loads, and run that.

    Args:
        runtime: the runtime.
        conversion: what its converter is given.
        feeds: the inputs to run on.
        seconds: after which it is given up.

    Raises:
        DeploymentError: when the runtime or its converter does not take the model, crashes or takes too long.
        UsageError: when something is not installed.
    """
    with TemporaryDirectory(prefix="onnxsqueeze-") as name:
        folder = Path(name)
        task = _ConvertAndRun(runtime, conversion, feeds, folder / "result")
        try:
            perform(task, folder, Limits(len(usable_cores()), 0, time.monotonic() + seconds), lambda event: None)
        except FailedError as error:
            raise DeploymentError(f"{runtime.title} does not take the model: {error}") from None
        except AbsentError as error:
            raise UsageError(f"{runtime.title} is not usable: {error}; {runtime.install}") from None
        result = pickle.loads(task.result.read_bytes())  # our own, from a folder that only we may enter
    assert isinstance(result, Ran)
    return result
