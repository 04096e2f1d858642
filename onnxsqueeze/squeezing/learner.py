"""What a squeeze hands its networks to for training: training lies above this layer, so that it is handed down."""

from __future__ import annotations

from typing import Protocol

from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.ladders import Tell
from onnxsqueeze.squeezing.metrics import Judge
from onnxsqueeze.squeezing.samples import Part


class Learner(Protocol):
    """Trains a small network to give what the original gives (`onnxsqueeze.training.Learning`)."""

    @property
    def seconds(self) -> float:
        """How long trainings may take together."""

    def learn(
        self, model: Model, original: Model, part: Part, judge: Judge, seconds: float, seed: int, tell: Tell
    ) -> tuple[Model, bool]:
        """Train for some seconds, on samples alone.

        Args:
            model: what learns. original: what it learns from. part: the samples. judge: how outputs are compared.
            seconds: when to stop. seed: of the order of samples. tell: is told how far it is.

        Returns:
            the best model there was on samples that were not trained on, the given one among them; and whether the
            training was interrupted.
        """
