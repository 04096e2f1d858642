"""Several processes, one network: the first decides and writes, all train; started by torchrun or not at all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from onnxsqueeze.errors import SqueezeError, UsageError

Value = TypeVar("Value")
_PATIENCE = timedelta(days=7)  # the first process may score and minimize for long while the others wait


class Processes:
    """The processes of a run.

    Attributes:
        rank, size: which of how many this is.
        local_rank: which of those on this machine.
    """

    def __init__(self) -> None:
        self.rank, self.size, self.local_rank = 0, 1, int(os.environ.get("LOCAL_RANK", 0))
        if not dist.is_available():
            return
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        if dist.is_initialized():
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # A group of its own: the time limit of the user's group is for training steps.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if self.size > 1 else None

    @property
    def main(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    def on_main(self, action: Callable[[], Value]) -> Value:
        """Do something in the first process, and return in all what it returns, or raise in all what it raises.

        What the first process gets is the object itself; the others get a copy.
        """
        if self.size == 1:
            return action()
        if not self.main:
            done, value = self._received()
            if not done:
                raise value
            return cast(Value, value)
        try:
            made = action()
        except BaseException as error:
            self._send((False, _sendable(error)))
            raise
        self._send((True, made))
        return made

    def agree(self, problem: Exception | None) -> None:
        """Raise in every process if one of them has met a problem: its own, or the first other's."""
        if self.size > 1:
            problems: list[Exception | None] = [None] * self.size
            dist.all_gather_object(problems, problem if problem is None else _sendable(problem), group=self._group)
            rank, other = next(((rank, found) for rank, found in enumerate(problems) if found), (0, None))
            if problem is None and other is not None:
                problem = SqueezeError(f"process {rank}: {other}")
        if problem is not None:
            raise problem

    def _send(self, outcome: tuple[bool, Any]) -> None:
        dist.broadcast_object_list([outcome], src=0, group=self._group)

    def _received(self) -> tuple[bool, Any]:
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        found: tuple[bool, Any] = box[0]
        return found


def _sendable(error: BaseException) -> BaseException:
    """Return the error, or one line for it where it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SqueezeError(f"{type(error).__name__}: {error}")
    return error


def chosen_device(device: str | torch.device | None, processes: Processes) -> torch.device:
    """Return the device to work on: the one given, else this process's GPU where there is one, else the CPU.

    Raises:
        UsageError: when the device given is not there.
    """
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        found = torch.device("cuda", processes.local_rank % torch.cuda.device_count())
    else:
        try:
            found = torch.device(device)
            torch.empty(1, device=found)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise UsageError(f"device={str(device)!r}: cannot be used: {str(error).splitlines()[0]}") from None
    if found.type == "cuda":
        torch.cuda.set_device(found)
    return found
