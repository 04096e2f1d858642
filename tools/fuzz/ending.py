"""How minimizing a file ends that may be damaged, and what of that is as it should be."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

import onnxsqueeze
from onnxsqueeze.errors import SqueezeError
from onnxsqueeze.model.saving import save
from tests.end_to_end.random_networks.generator import random_network
from tests.end_to_end.random_networks.token_generator import random_token_network

GOOD = ("written", "refused")
SECONDS = 10
MEGABYTES = 1000
_NETWORKS = 40  # of each generator
_FORESEEN = (1, 2, 3)  # exit codes of an error, a wrong call, an invalid model


class _TooLongError(BaseException):
    """Is raised by the alarm clock."""


def networks() -> list[ModelProto]:
    """Return sound models, which are to be damaged."""
    return [draw(seed).model for seed in range(_NETWORKS) for draw in (random_network, random_token_network)]


class Endings:
    """Minimizes files in this process, whose alarm clock it takes."""

    def __init__(self, folder: Path) -> None:
        """Use a folder for what is read and written."""
        self._given, self._made = folder / "model.onnx", folder / "out.onnx"
        self._most = _megabytes()
        signal.signal(signal.SIGALRM, _ring)

    def of(self, data: bytes) -> str:
        """Return how a file ends: one of GOOD, or what else."""
        self._given.write_bytes(data)
        self._made.unlink(missing_ok=True)
        signal.alarm(SECONDS)
        try:
            result = onnxsqueeze.minimize(self._given, verify=False)
            result.report.to_dict()
            save(result.minimized, self._made)
        except SqueezeError as error:
            good = error.exit_code in _FORESEEN and "\n" not in str(error)
            return self._with_memory("refused" if good else f"refused oddly: {error}")
        except _TooLongError:
            return "more than ten seconds"
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split()):.100}"
        finally:
            signal.alarm(0)
        return self._with_memory(self._judged(data))

    def _judged(self, data: bytes) -> str:
        """Say whether what was written is valid, if what was given is."""
        try:
            onnx.checker.check_model(onnx.load(self._made))
        except Exception as error:
            return f"written, and not valid: {' '.join(str(error).split()):.100}" if _valid(data) else "written"
        return "written"

    def _with_memory(self, how: str) -> str:
        """Say if it took more memory than is allowed, and than anything before."""
        before, self._most = self._most, _megabytes()
        return f"{self._most} MB of memory" if self._most > max(before, MEGABYTES) else how


def _valid(data: bytes) -> bool:
    try:
        onnx.checker.check_model(ModelProto.FromString(data))
    except (onnx.checker.ValidationError, DecodeError):
        return False
    return True


def _megabytes() -> int:
    """Return the most that this process has had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _ring(*_: Any) -> None:
    raise _TooLongError
