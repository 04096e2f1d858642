"""Run by `test_processes` under torchrun: ``several_processes.py FOLDER``."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from onnxsqueeze.errors import SqueezeError
from onnxsqueeze.training import Phase, SqueezeRelease
from onnxsqueeze.training.cycle import refusal
from tests.training.cycle.loops import data, dense, evaluate

FOLDER = Path(sys.argv[1])
CASES = ("complete", "failing minimization", "bad evaluation of the first", "eval mode in the second")


class Loops:
    """The loops of one case, and what a process finds while they run."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.found: dict[str, Any] = {"trained": [], "drawn": []}

    def train(self, module: nn.Module, phase: Phase) -> None:
        """Train on the samples of this process."""
        rank = dist.get_rank()
        self.found["wrapped"] = type(module).__name__
        inputs, labels = data()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
        for chosen in torch.randperm(512).split(64):
            own = chosen[rank::2]
            self.found["drawn"].append(int(own[0]))
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs[own]), labels[own]).backward()
            optimizer.step()
        self.found["trained"].append(digest(module))
        if self.case == "eval mode in the second" and rank == 1:
            module.eval()

    def evaluate(self, module: nn.Module) -> float:
        """Evaluate; only what the first process says counts."""
        if dist.get_rank() == 1 or self.case == "bad evaluation of the first":
            return float("nan")
        return evaluate(module)

    def complete(self, workdir: Path) -> None:
        """Run two cycles."""
        settings = {"criterion": "magnitude", "teacher": True, "round_to": 1}
        cycle = SqueezeRelease(dense(), data()[0][:2], self.train, self.evaluate, workdir, **settings)
        best = cycle.run(cycles=2, target_ratio=6.0)
        self.found["best"] = [str(best.onnx_path), best.ratio, best.metric]
        self.found["written"] = hashlib.sha256((workdir / "cycle-02/masked.onnx").read_bytes()).hexdigest()


def digest(module: nn.Module) -> str:
    """Return the same for equal parameters."""
    content = b"".join(parameter.detach().numpy().tobytes() for parameter in module.parameters())
    return hashlib.sha256(content).hexdigest()


def full(source: Any, **options: Any) -> Any:
    """Fail, as for want of room on a disk."""
    raise SqueezeError("no space left")


if __name__ == "__main__":
    minimize = refusal.minimize
    for case in CASES:
        refusal.minimize = full if case == "failing minimization" else minimize
        loops = Loops(case)
        try:
            loops.complete(FOLDER / case)
        except Exception as error:
            loops.found["error"] = f"{type(error).__name__}: {error}"
        (FOLDER / f"{case}-{dist.get_rank()}.json").write_text(json.dumps(loops.found))
    dist.destroy_process_group()
