"""The errors that a caller can meet; each carries one clear line and the exit code of the command line."""

from __future__ import annotations

from typing import Any, ClassVar


class SqueezeError(Exception):
    """The base of all errors: something went wrong that no other class describes, such as a full disk."""

    exit_code: ClassVar[int] = 1

    def details(self) -> dict[str, Any]:
        """Return what is known of the failure beyond its one line, as plain data for ``--json``; mostly nothing."""
        return {}


class UsageError(SqueezeError):
    """An argument that cannot be followed: an unknown name, an output folder that does not exist."""

    exit_code: ClassVar[int] = 2


class InvalidModelError(SqueezeError):
    """A model that cannot be read or that breaks the ONNX standard."""

    exit_code: ClassVar[int] = 3


class DeploymentError(SqueezeError):
    """A runtime, its converter or the quantizer does not take a model."""

    exit_code: ClassVar[int] = 5


class GoalError(SqueezeError):
    """A network could not be made as small as was asked within the drop that was allowed."""

    exit_code: ClassVar[int] = 6


def one_line(error: Exception) -> str:
    """Return what an error says as one line; of an error of the operating system only its reason."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
