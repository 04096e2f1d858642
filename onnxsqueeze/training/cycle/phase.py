"""What the user's training loop is told about the phase that it trains."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Phase:
    """One call of the user's training loop.

    Attributes:
        kind: "squeeze" for training under new masks, "release" for training in which former zeros take part again,
            "prepare" for training before the masks of a criterion that looks at what training does.
        cycle, cycles: which cycle this is, counted from 1, and how many there may be.
        step, steps: which of how many phases of this kind it is in this cycle, counted from 1.
        seed: of this phase, for generators of the loop's own; those of Python, numpy and torch are seeded with it
            already. It depends on the run's seed, the cycle, the kind and the step alone.
        workdir: the cycle's folder, where the loop may keep checkpoints of its own.
        target: the size ratio that the cycle aims at: the weight elements of the dense network by those to be left.
        teacher: the dense network in eval mode, None without distillation. With ``teacher=True`` its loss is added by
            itself; with ``teacher="loop"`` the loop uses it as it likes.
        device: where the module is.
    """

    kind: str
    cycle: int
    cycles: int
    step: int
    steps: int
    seed: int
    workdir: Path
    target: float
    teacher: nn.Module | None
    device: torch.device


def phase_seed(seed: int, cycle: int, kind: str, step: int = 0) -> int:
    """Return the seed of one phase, below 2**32: equal arguments give equal seeds, others give unrelated ones."""
    state = np.random.SeedSequence([seed, cycle, zlib.crc32(kind.encode()), step]).generate_state(1)
    return int(state[0])


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, those of all GPUs included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
