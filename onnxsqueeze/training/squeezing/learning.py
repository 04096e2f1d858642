"""Training on top of a squeeze: a small network learns what the original says of samples without labels."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.ladders import Tell
from onnxsqueeze.squeezing.metrics import Judge
from onnxsqueeze.squeezing.running import Runner
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.training.module.onnx_module import OnnxModule, from_onnx

Array = npt.NDArray[Any]
Batch = tuple[dict[str, Tensor], list[Tensor]]
_CHECKED = 8  # one batch in so many is not trained on
_MOST_CHECKED = 16  # batches
_CHECKS = 24  # in the whole training, by the clock
_WARM_UP = 0.03  # of the time
_LEAST_RATE = 0.01  # of the first
_PATIENCE, _SMALLER = (0.3, 0.6), 4.0  # where nothing is better after that share of the time, the rate was too large
_TEMPERATURE = 2.0
_HELD = 1 << 28  # bytes of the original's outputs that are kept in memory
_CLASSES = ("top1", "argmax", "argmax-1")


@dataclass(frozen=True)
class Learning:
    """Trains a squeezed network on the original's outputs, on one CPU, for some time.

    Scores of classes are learnt by KL divergence at a temperature (arXiv 1503.02531), all other outputs by the squared
    difference relative to how much they vary. Where inputs are numbers that can be averaged, the original is asked
    about mixtures of two samples as well (arXiv 1710.09412, arXiv 2106.05237): the samples alone are soon known by
    heart. AdamW, its rate falling to almost nothing along a cosine as time passes; what errs least on samples that
    were kept apart is what comes out.

    Attributes:
        seconds: how long trainings may take together. rate: the learning rate that it starts with. decay: of weights.
        mixed: the share of the batches in which samples are mixed.
    """

    seconds: float
    rate: float = 1e-3
    decay: float = 1e-3
    mixed: float = 0.5

    def learn(
        self, model: Model, original: Model, part: Part, judge: Judge, seconds: float, seed: int, tell: Tell
    ) -> tuple[Model, bool]:
        """Train for some seconds; see `onnxsqueeze.squeezing.learner.Learner`.

        Raises:
            UsageError: when an operator has no torch form.
        """
        torch.manual_seed(seed)
        run = _Run(self, from_onnx(model), _Lessons(original, part, seed), judge, seconds, seed)
        interrupted = False
        try:
            run.train(tell)
        except KeyboardInterrupt:
            interrupted = True
        return run.best(model), interrupted


class _Lessons:
    """Batches of samples with what the original says of them, those that are trained on and a few that are not."""

    def __init__(self, original: Model, part: Part, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(part) // part.batch)
        numbers = order[:, None] * part.batch + np.arange(part.batch)
        self._rows = part.rows[numbers] if order.size else part.rows[None]
        count = min(_MOST_CHECKED, max(1, len(self._rows) // _CHECKED))
        self.checked, self.trained = range(count), range(count % max(1, len(self._rows)), len(self._rows))
        self._part, self._teacher = part, Runner(original)
        self._held: dict[int, Batch] = {}
        self._bytes = 0

    @property
    def mixable(self) -> bool:
        """Whether samples can be averaged: numbers, of which a batch has several."""
        arrays = self._part.arrays.values()
        return not self._part.single and self._part.batch > 1 and all(array.dtype.kind == "f" for array in arrays)

    def mixture(self, number: int, random: np.random.Generator) -> Batch:
        """Return a batch each of whose samples is mixed with another, and what the original says of it."""
        feeds = self._feeds(number)
        count = len(self._rows[number])
        other, share = random.permutation(count), random.uniform(size=count)
        for name in self._part.arrays:
            axis = self._part.axes.get(name, 0)
            own = feeds[name]
            weight = share.reshape(-1, *[1] * (own.ndim - 1 - axis)).astype(own.dtype)
            feeds[name] = own * weight + np.take(own, other, axis) * (1 - weight)
        (taught,) = self._teacher.run_on([feeds])
        return _tensors(feeds, taught)

    def _feeds(self, number: int) -> dict[str, Array]:
        own = replace(self._part, rows=self._rows[number], labels=None)
        return dict(next(own.batches()))

    def batch(self, number: int) -> Batch:
        """Return inputs by name, and the original's outputs."""
        if number in self._held:
            return self._held[number]
        feeds = self._feeds(number)
        (taught,) = self._teacher.run_on([feeds])
        found = _tensors(feeds, taught)
        size = sum(array.nbytes for array in (*feeds.values(), *taught.values()))
        if self._bytes + size <= _HELD:
            self._bytes += size
            self._held[number] = found
        return found


def _tensors(feeds: Mapping[str, Array], taught: Mapping[str, Array]) -> Batch:
    return {name: torch.from_numpy(array) for name, array in feeds.items()}, [_tensor(v) for v in taught.values()]


def _tensor(array: Array) -> Tensor:
    floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32) if floating else array))


class _Run:
    """One training."""

    def __init__(
        self, wishes: Learning, module: OnnxModule, lessons: _Lessons, judge: Judge, seconds: float, seed: int
    ) -> None:
        self._module, self._lessons, self._judge, self._seconds = module, lessons, judge, seconds
        self._rate = wishes.rate
        self._mixed = wishes.mixed if lessons.mixable else 0.0
        weights = [tensor for tensor in module.parameters() if tensor.requires_grad]
        self._optimizer = torch.optim.AdamW(weights, wishes.rate, weight_decay=wishes.decay)
        self._weights = weights
        self._random = np.random.default_rng(seed)
        self._least = self._checked()
        self._first = copy.deepcopy(module.state_dict())
        self._best: dict[str, Any] | None = None

    def train(self, tell: Tell) -> None:
        """Train until the time is over, or nothing is finite any more."""
        started, checks, patience = time.monotonic(), 0, list(_PATIENCE)
        while True:
            for number in self._random.permutation(list(self._lessons.trained)):
                passed = (time.monotonic() - started) / self._seconds
                if passed >= 1:
                    self._keep_if_better()
                    return
                if passed * _CHECKS >= checks + 1:
                    checks = int(passed * _CHECKS)
                    tell("training", passed)
                    self._keep_if_better()
                if patience and passed >= patience[0]:
                    patience.pop(0)
                    self._slow_down()
                self._step(int(number), passed)

    def _slow_down(self) -> None:
        """Begin again with a smaller rate, unless something has become better by now."""
        if self._best is None:
            self._module.load_state_dict(self._first)
            self._optimizer.state.clear()
            self._rate /= _SMALLER

    def _step(self, number: int, passed: float) -> None:
        falling = _LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * passed)) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * falling * min(1.0, (passed + 1e-3) / _WARM_UP)
        self._module.train()
        mixed = self._random.uniform() < self._mixed
        loss = self._loss(*(self._lessons.mixture(number, self._random) if mixed else self._lessons.batch(number)))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()

    def _loss(self, inputs: dict[str, Tensor], taught: Sequence[Tensor]) -> Tensor:
        found = self._module(**inputs)
        outputs = [found] if isinstance(found, Tensor) else list(found)
        total = torch.zeros(())
        for position, (own, wanted) in enumerate(zip(outputs, taught, strict=True)):
            if not wanted.is_floating_point():
                continue
            if position == self._judge.output and self._judge.metric.name in _CLASSES:
                total = total + _divergence(own, wanted, 1 if self._judge.metric.name == "argmax-1" else -1)
            elif position == self._judge.output and self._judge.metric.name == "binary":
                total = total + functional.binary_cross_entropy(own.float().clamp(0, 1), wanted.float().clamp(0, 1))
            else:
                total = total + functional.mse_loss(own.float(), wanted) / (wanted.var() + 1e-12)
        return total

    @torch.no_grad()
    def _checked(self) -> float:
        self._module.eval()
        losses = [float(self._loss(*self._lessons.batch(number))) for number in self._lessons.checked]
        return float(np.mean(losses))

    def _keep_if_better(self) -> None:
        error = self._checked()
        if math.isfinite(error) and error < self._least:
            self._least, self._best = error, copy.deepcopy(self._module.state_dict())

    def best(self, given: Model) -> Model:
        """Return the best model there was."""
        if self._best is None:
            return given
        self._module.load_state_dict(self._best)
        return self._module.write_back()


def _divergence(own: Tensor, wanted: Tensor, axis: int) -> Tensor:
    """Return KL(original || small) at a temperature; outputs that are probabilities already are taken as such."""
    taught, found = _scores(wanted, axis), _scores(own.float(), axis, like=wanted)
    soft, small = (functional.log_softmax(scores / _TEMPERATURE, axis) for scores in (taught, found))
    return (soft.exp() * (soft - small)).sum(axis).mean() * _TEMPERATURE**2


def _scores(outputs: Tensor, axis: int, like: Tensor | None = None) -> Tensor:
    reference = outputs if like is None else like
    probabilities = bool((reference >= 0).all()) and bool((reference.sum(axis) - 1).abs().max() < 1e-3)
    return outputs.clamp_min(1e-12).log() if probabilities else outputs
