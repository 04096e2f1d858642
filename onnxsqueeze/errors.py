"""The errors that a caller can meet; each carries one clear line and the exit code of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from onnxsqueeze.verification import VerifyReport


class SqueezeError(Exception):
    """The base of all errors: something went wrong that no other class describes, such as a full disk."""

    exit_code: ClassVar[int] = 1


class UsageError(SqueezeError):
    """An argument that cannot be followed: an unknown name, an output folder that does not exist."""

    exit_code: ClassVar[int] = 2


class InvalidModelError(SqueezeError):
    """A model that cannot be read or that breaks the ONNX standard."""

    exit_code: ClassVar[int] = 3


class VerificationError(SqueezeError):
    """The minimized model does not compute what the original computes.

    Attributes:
        report: what was compared and where it differed.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, report: VerifyReport) -> None:
        super().__init__(message, report)  # both, so that the error survives pickling between processes
        self.report = report

    def __str__(self) -> str:
        return str(self.args[0])


class DeploymentError(SqueezeError):
    """A runtime, its converter or the quantizer does not take a model."""

    exit_code: ClassVar[int] = 5


def one_line(error: Exception) -> str:
    """Return what an error says as one line; of an error of the operating system only its reason."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
