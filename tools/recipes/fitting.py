"""A plain training loop, and accuracy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.recipes.data import Images

_SECONDS_BETWEEN_CHECKPOINTS = 60
_TEMPERATURE = 2.0
_IMAGES_AT_ONCE = 500  # few enough to stay in a cache
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Loop:
    """How a network is trained: AdamW under a cosine schedule with a short linear warm-up.

    Attributes:
        epochs, batch, learning_rate, weight_decay, label_smoothing: as everywhere.
        augment: changes a batch of training images; it draws from the generator that it is given.
        hidden: the share of the inputs that are dropped at random, as by Dropout; the teacher saw all.
        bfloat16: whether to train under autocast to bfloat16, where the machine multiplies such numbers.
    """

    epochs: float
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    augment: Augment | None = None
    hidden: float = 0.0
    bfloat16: bool = False

    def fit(
        self,
        module: nn.Module,
        images: Images,
        seed: int,
        checkpoint: Path | None = None,
        taught: Tensor | None = None,
    ) -> None:
        """Train a module in place on images that lie on its device.

        Args:
            module, images: what learns, and from what.
            seed: of the order of the images and of what is done to them.
            checkpoint: a file that takes up the state every minute, and from which a stopped training goes on.
            taught: what a teacher says, to be learnt as much as the labels; see
                `onnxsqueeze.training.lessons`. In each epoch the images
                are changed as they were for one of its copies.
        """
        state = _State(self, module, images, seed, taught)
        if checkpoint is not None and checkpoint.exists():
            state.load(torch.load(checkpoint, weights_only=True))
        module.train()
        saved = time.monotonic()
        while not state.finished:
            state.step()
            if checkpoint is not None and time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                written(checkpoint, lambda place: torch.save(state.saved(), place))
                saved = time.monotonic()


class _State:
    """A training under way."""

    def __init__(self, loop: Loop, module: nn.Module, images: Images, seed: int, taught: Tensor | None = None) -> None:
        self._loop, self._module, self._images, self._taught = loop, module, images, taught
        self._device = images.inputs.device
        self._steps = max(1, round(loop.epochs * (len(images) // loop.batch)))
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._optimizer = torch.optim.AdamW(
            module.parameters(), loop.learning_rate, weight_decay=loop.weight_decay, fused=self._device.type == "cuda"
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            loop.learning_rate,
            total_steps=self._steps + 1,
            pct_start=min(0.3, 100 / self._steps),
            div_factor=10,
        )
        self._order = torch.empty(0, dtype=torch.int64, device=self._device)
        self._copy = -1
        self._inputs = images.inputs
        self._done = 0

    @property
    def finished(self) -> bool:
        return self._done >= self._steps

    def step(self) -> None:
        loop, images = self._loop, self._images
        if len(self._order) < loop.batch:
            self._next_epoch()
        chosen, self._order = self._order[: loop.batch], self._order[loop.batch :]
        inputs = self._inputs[chosen]
        if loop.augment and self._taught is None:
            inputs = loop.augment(inputs, self._generator)
        if loop.hidden:
            seen = torch.rand(inputs.shape, generator=self._generator, device=self._device) >= loop.hidden
            inputs = inputs * seen / (1 - loop.hidden)
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=loop.bfloat16 and _multiplies_bfloat16(self._device)
        ):
            outputs = self._module(inputs).float()
        loss = F.cross_entropy(outputs, images.labels[chosen], label_smoothing=loop.label_smoothing)
        if self._taught is not None:
            loss = (loss + _distillation(outputs, self._taught[self._copy, chosen])) / 2
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        self._done += 1

    def _next_epoch(self) -> None:
        self._order = torch.randperm(len(self._images), generator=self._generator, device=self._device)
        if self._taught is not None:
            copy = torch.randint(len(self._taught), (), generator=self._generator, device=self._device)
            self._take(int(copy))

    def _take(self, copy: int) -> None:
        if copy >= 0 and self._loop.augment:
            from onnxsqueeze.training import augmented

            self._inputs = augmented(self._images.inputs, self._loop.augment, copy)
        self._copy = copy

    def saved(self) -> dict[str, Any]:
        return {
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generator": self._generator.get_state(),
            "random": torch.get_rng_state(),
            "order": self._order,
            "copy": self._copy,
            "done": self._done,
        }

    def load(self, saved: dict[str, Any]) -> None:
        self._module.load_state_dict(saved["module"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self._generator.set_state(saved["generator"].cpu())
        torch.set_rng_state(saved["random"].cpu())
        self._order, self._done = saved["order"], saved["done"]
        self._take(saved["copy"])


def _distillation(outputs: Tensor, taught: Tensor) -> Tensor:
    """Return how far soft labels are from a teacher's, at a temperature (arXiv 1503.02531)."""
    found, wanted = (F.log_softmax(scores / _TEMPERATURE, 1) for scores in (outputs, taught))
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True) * _TEMPERATURE**2


def flip_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each by up to four pixels, reflecting at the border."""
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2, count, 1), generator=generator, device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    samples = torch.arange(count, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def scores(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of a module in eval mode, [samples, classes]; its mode is left as it was."""
    mode = module.training
    module.eval()
    found = torch.cat([module(part) for part in inputs.split(_IMAGES_AT_ONCE)])
    module.train(mode)
    return found


def accuracy(module: nn.Module, images: Images) -> float:
    """Return the share of images that a module labels rightly; its mode is left as it was."""
    return float((scores(module, images.inputs).argmax(1) == images.labels).float().mean())


def written(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside and rename, so that a run that is stopped leaves no half file."""
    beside = path.with_suffix(path.suffix + ".part")
    write(beside)
    os.replace(beside, path)


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16; a processor without is slower with them."""
    return device.type != "cpu" or any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16"))
