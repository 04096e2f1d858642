"""What the tests call in another process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxsqueeze.processes.mapping import place_of

Array = npt.NDArray[np.float32]


def twice(array: Array, progress: Callable[[str, float], None]) -> Array:
    """Return a doubled array."""
    progress("doubling", 0.5)
    return 2 * array


def is_mapped(array: Array) -> bool:
    """Whether an array arrived as a mapping of its file, and not as its bytes."""
    return place_of(array) is not None


class OddError(Exception):
    """Cannot be pickled as it is: it asks for more than it hands on."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def fail(odd: bool) -> None:
    """Raise an error."""
    raise OddError("so", "odd") if odd else ValueError("no such thing")


def die(number: int, progress: Callable[[str, float], None]) -> None:
    """End by a signal, as native code does that crashes."""
    progress("dying", 0.0)
    os.kill(os.getpid(), number)
    signal.pause()


def leave() -> None:
    """End with an exit code."""
    os.write(2, b"no memory for this\n")
    os._exit(7)
