"""The folder of a run: every file is there whole or not at all, and state.json names finished files only."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from onnxsqueeze.errors import UsageError, one_line
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import save, save_bytes
from onnxsqueeze.training.cycle.state import State, from_json

STATE, DENSE = "state.json", "dense.onnx"
UNDERWAY = "underway"
"""The folder of what one stage hands on to the next, removed when it is used up."""
Batch = tuple[torch.Tensor, ...]


class Workdir:
    """The files of a run, by names relative to its folder.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._digests: dict[str, str] = {}

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / STATE).exists()

    def prepare(self) -> None:
        """Make the folder and find out whether it can be written to; remove what a killed process has left half done.

        Raises:
            UsageError: when it cannot.
        """
        probe = self.folder / f".probe-{os.getpid()}"
        try:
            self.path(UNDERWAY).mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"{self.folder}: the workdir cannot be written to: {one_line(error)}; choose another one"
            ) from None
        for unfinished in (*self.folder.glob(".onnxsqueeze-*.tmp"), *self.folder.glob("*/.onnxsqueeze-*.tmp")):
            with suppress(OSError):
                unfinished.unlink()

    def refuse_other_run(self) -> None:
        """Raise a UsageError when a run was begun here."""
        if self.holds_run:
            raise UsageError(
                f"{self.folder}: holds a run; go on with SqueezeRelease.resume(workdir, train=..., evaluate=...) "
                "or give another workdir"
            )

    def cycle(self, cycle: int) -> str:
        """Return the name of a cycle's folder, which is made if need be."""
        name = f"cycle-{cycle:02d}"
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return name

    def path(self, name: str) -> Path:
        """Return where a file is."""
        return self.folder / name

    def load_state(self) -> State:
        """Read the state.

        Raises:
            UsageError: when no run was begun here, or a file that its state names is gone or another.
        """
        path = self.folder / STATE
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UsageError(
                f"{self.folder}: no run was begun here; start one with SqueezeRelease(..., workdir=...)"
            ) from None
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {one_line(error)}") from None
        state = from_json(content, str(path))
        for name in named(state):
            if not (self.folder / name).is_file():
                raise UsageError(f"{self.folder / name}: is gone, and the run needs it; put it back or start a new run")
        for name, digest in state.digests.items():
            if self._digest(name) != digest:
                raise UsageError(
                    f"{self.folder / name}: is not the file that the run was going on with; "
                    "put that back or start a new run"
                )
        return state

    def save_state(self, state: State) -> None:
        """Write the state; all that it names must be finished."""
        digests = {name: self._digest(name) for name in networks(state)}
        save_bytes(replace(state, digests=digests).to_json(), self.folder / STATE)

    def _digest(self, name: str) -> str:
        """Return the SHA-256 of a file that is not written again, computed once."""
        if name not in self._digests:
            digest = hashlib.sha256()
            with (self.folder / name).open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
            self._digests[name] = digest.hexdigest()
        return self._digests[name]

    def save_json(self, name: str, content: Any) -> None:
        """Write plain values as JSON."""
        save_bytes((json.dumps(content, indent=1) + "\n").encode(), self.folder / name)

    def save_model(self, name: str, model: Model) -> str:
        """Write a model and return its name."""
        save(model, self.folder / name)
        return name

    def load_model(self, name: str) -> Model:
        """Read a model."""
        return load(self.folder / name)

    def save_batches(self, name: str, content: Sequence[Batch]) -> str:
        """Write batches and return the name of the file."""
        stream = io.BytesIO()
        torch.save(content, stream)
        save_bytes(stream.getvalue(), self.folder / name)
        return name

    def load_batches(self, name: str) -> list[Batch]:
        """Read batches, on the CPU."""
        found: list[Batch] = torch.load(self.folder / name, map_location="cpu", weights_only=True)
        return found

    def sweep(self, state: State) -> None:
        """Remove what stages have handed on and the state does not name any more."""
        needed = tuple(Path(name).name for name in named(state))  # beside a large model may be its data file
        for path in self.path(UNDERWAY).iterdir():
            if not path.name.startswith(needed):
                with suppress(OSError):
                    path.unlink()


def networks(state: State) -> list[str]:
    """Return the networks of finished cycles, which are not written again."""
    return [DENSE, *(f"cycle-{record.cycle:02d}/network.onnx" for record in state.records)]


def named(state: State) -> list[str]:
    """Return the files that a run cannot go on without."""
    names = networks(state)
    if state.calibration is not None:
        names.append(state.calibration)
    if state.underway is not None:
        underway = state.underway
        names += [name for name in (underway.network, underway.start) if name is not None]
    return names
