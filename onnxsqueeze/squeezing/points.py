"""From sizes to a minimized network and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except, fixed_size
from onnxsqueeze.model.saving import encoded_size
from onnxsqueeze.pipeline.minimize import minimize
from onnxsqueeze.runtimes.interleaving import interleaved_times
from onnxsqueeze.squeezing.allocation import Step
from onnxsqueeze.squeezing.gathering import with_arrays
from onnxsqueeze.squeezing.ladders import Ladder, Network, Tell
from onnxsqueeze.squeezing.metrics import Judge, relative_deviation
from onnxsqueeze.squeezing.report import Point, Taken
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.squeezing.sequence import FrontToBack
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import Session

Array = npt.NDArray[Any]
_ROUNDS = 7


class Maker:
    """Makes networks of given sizes and measures them.

    Attributes:
        original: the user's model. dense: its own value of the metric. bytes, macs: its size.
    """

    def __init__(self, original: Model, judge: Judge, held_out: Part, macs: float, wishes: Mapping[str, Any]) -> None:
        """Run the original on the samples that were held out.

        Args:
            original: the user's model. judge: how outputs are compared. held_out: samples for the figures alone.
            macs: the original's multiply-accumulates. wishes: how to minimize.
        """
        self.original, self.macs = original, macs
        self._judge, self._part, self._wishes = judge, held_out, wishes
        self._before = outputs_of(original, held_out)
        self.dense = judge.value(self._before, self._before, held_out.labels)
        self.bytes = encoded_size(original)

    def make(
        self, network: Network, ladders: Sequence[Ladder], step: Step, source: Model, tell: Tell, latency: bool = False
    ) -> Point:
        """Squeeze, repair, minimize and measure a network.

        Args:
            network, ladders: what is known of the network that is squeezed. step: the sizes.
            source: that network without the biases that were added to it. tell: is told how far it is.
            latency: whether to time it beside the original.
        """
        sequence = FrontToBack(network, ladders, step.sizes)
        sequence.run(tell)
        masked = without_idle_biases(with_arrays(network.model, sequence.arrays), source)
        tell("minimizing", None)
        result = minimize(to_proto(masked), **self._wishes)
        tell("measuring", None)
        macs = network.units.macs_left(np.zeros(len(network.units), dtype=bool))
        macs *= result.report.macs_after / max(1, result.report.macs_before)
        return self.measured(result.minimized, round(macs), tuple(_taken(ladders, step)), latency)

    def measured(
        self, model: Model, macs: int, taken: tuple[Taken, ...], latency: bool = False, trained: float = 0.0
    ) -> Point:
        """Return the figures of a small network.

        Args:
            model: the network. macs: its multiply-accumulates. taken: what each layer lost.
            latency: whether to time it. trained: for how many seconds it was.
        """
        after = outputs_of(model, self._part)
        value = self._judge.value(self._before, after, self._part.labels)
        weights = weight_elements(model)
        return Point(
            weights=weights,
            macs=macs,
            bytes=encoded_size(model),
            ratio=weight_elements(self.original) / max(1, weights),
            macs_ratio=self.macs / max(1, macs),
            metric=value,
            drop=100 * (self.dense - value),
            deviation=relative_deviation(self._before, after),
            latency=self._latency(model) if latency else None,
            trained=trained,
            taken=taken,
            model=model,
        )

    def _latency(self, model: Model) -> float:
        """Return the time of a run as a share of the original's: both are timed in turn, on one sample."""
        feeds = next(iter(replace(self._part, batch=self._single()).batches()))
        sessions = [Session(Source(each), optimized=True) for each in (self.original, model)]
        times = interleaved_times([partial(own.run, feeds) for own in sessions], _ROUNDS)
        return float(np.median(times[:, 1] / times[:, 0]))

    def _single(self) -> int:
        """Return the smallest batch that the model takes: 1 unless it fixes another."""
        dims = {value.name: value.type.tensor_type.shape.dim for value in self.original.skeleton.graph.input}
        axes = {name: self._part.axes.get(name, 0) for name in self._part.arrays}
        fixed = any(fixed_size(dims[name][axis]) is not None for name, axis in axes.items() if dims[name])
        return self._part.batch if fixed else 1


def _taken(ladders: Sequence[Ladder], step: Step) -> list[Taken]:
    pairs = zip(ladders, step.sizes, strict=True)
    return [Taken(each.family.name, each.family.kind, each.family.size, size) for each, size in pairs]


def without_idle_biases(model: Model, original: Model) -> Model:
    """Return a model without the biases that the original did not have and that are zero all the same."""
    added = {
        name
        for name, initializer in model.initializers.items()
        if name not in original.initializers and not initializer.array.any()
    }
    if not added:
        return model
    skeleton = copy_except(model.skeleton)
    for node in skeleton.graph.node:
        names = ["" if name in added else name for name in node.input]
        while names and not names[-1]:
            names.pop()
        if names != list(node.input):
            del node.input[:]
            node.input.extend(names)
    kept = {name: array for name, array in model.initializers.items() if name not in added}
    return replace(model, skeleton=skeleton, initializers=kept)
