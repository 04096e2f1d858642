"""What is known of a runtime: one record, so that measuring and deploying know no runtime by name."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class NotInstalledError(Exception):
    """A runtime or its converter is not here; the message says what is missing, in one line."""


class UnsupportedModelError(Exception):
    """A runtime or its converter does not take a model; the message is its reason, in one line."""


class RuntimeSession(Protocol):
    """A model that is loaded and can be run."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on one array for each graph input and return the graph outputs by name."""


@runtime_checkable
class RemoteSession(RuntimeSession, Protocol):
    """A session in another process, which measures itself: handing arrays over takes time, and is not to be counted."""

    def times(self, inputs: Mapping[str, Array], repeats: int) -> list[float]:
        """Run the model so often on the same inputs and return the seconds of each run."""

    def peak_bytes(self) -> int:
        """Return the largest resident memory of the other process, as of the last run."""


@dataclass(frozen=True)
class Conversion:
    """What a runtime's converter is given.

    Attributes:
        model: an ONNX file, which is not changed.
        folder: where to write; it exists.
        shapes: the shape of each input, for runtimes that take one shape only.
        half: store the weights as float16, where the converter itself can do that.
    """

    model: Path
    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    half: bool = False


@dataclass(frozen=True)
class Runtime:
    """One runtime, and how to use it. Nothing of it is imported before one of the functions is called.

    Attributes:
        name: what it is called on the command line.
        title: what it is called elsewhere.
        install: what to type to get it.
        version: returns its version. Raises NotInstalledError.
        convert: writes what it loads and returns those files, the one that stands for all of them first. Raises
            NotInstalledError for a converter that is missing, and UnsupportedModelError.
        load: loads such files, with so many threads. Raises UnsupportedModelError.
        converters: what conversion needs besides, by the name of its distribution.
        one_shape: whether what is converted takes inputs of one shape only.
        helpers: how many threads it keeps busy besides those that compute, such as a compiler's.
    """

    name: str
    title: str
    install: str
    version: Callable[[], str]
    convert: Callable[[Conversion], tuple[Path, ...]]
    load: Callable[[tuple[Path, ...], int], RuntimeSession]
    converters: tuple[str, ...] = ()
    one_shape: bool = False
    helpers: int = 0

    def versions(self) -> dict[str, str]:
        """Return the versions of the runtime and of its converters by name.

        Raises:
            NotInstalledError: when one of them is missing.
        """
        return {self.name: self.version(), **{name: distribution_version(name) for name in self.converters}}


def imported(module: str) -> Any:
    """Return a module of a runtime, which is no dependency of this package.

    Raises:
        NotInstalledError: when it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalledError(f"{module} cannot be imported: {error}") from None


def distribution_version(name: str) -> str:
    """Return the version of an installed distribution.

    Raises:
        NotInstalledError: when it is not installed.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise NotInstalledError(f"{name} is not installed") from None


def contiguous(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return arrays that lie in memory row by row, as runtimes expect without looking."""
    return {name: np.ascontiguousarray(array) for name, array in inputs.items()}
