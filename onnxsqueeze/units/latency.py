"""What a unit costs in time: measured by leaving out half of those side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnxruntime

from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.pipeline.minimize import minimize
from onnxsqueeze.runtimes.interleaving import interleaved_times
from onnxsqueeze.units.units import Units

_ROUNDS = 5
Feeds = Mapping[str, npt.NDArray[np.generic]]


def measured_latency(model: Model, units: Units, feeds: Feeds, threads: int = 1) -> dict[int, float]:
    """Return by group of units the seconds that each of its units takes in onnxruntime; for `Units.cost`.

    Half of a group is removed, every other unit, and the model minimized and timed in turn with the dense one, since
    other work comes and goes; the time is taken as linear in the number of units. A group whose removal makes nothing
    faster gets the least time that any has; all get one second where none does.

    Args:
        model: the dense model that the units are of. units: see `units_of`.
        feeds: inputs of the size to measure at. threads: that onnxruntime computes in.
    """
    whole = _session(model, threads)
    found: dict[int, float] = {}
    for number, group in enumerate(units.groups):
        removed = np.zeros(len(units), dtype=bool)
        removed[group[::2]] = True
        gone = int(units.gone(removed)[group].sum())
        if gone and group.size > 1:
            found[number] = _saved(whole, _session(_without(model, units, removed), threads), feeds) / gone
    least = min((value for value in found.values() if value > 0), default=1.0)
    return {number: max(value, least) for number, value in found.items()}


def _without(model: Model, units: Units, removed: npt.NDArray[np.bool_]) -> Model:
    initializers = dict(model.initializers)
    for name, mask in units.masks(removed).items():
        array = initializers[name].array
        initializers[name] = initializers[name].with_array(np.where(mask, array, np.zeros((), array.dtype)))
    return minimize(to_proto(replace(model, initializers=initializers)), verify=False).minimized


def _session(model: Model, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    encoded = to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(encoded, options, providers=["CPUExecutionProvider"])


def _saved(whole: onnxruntime.InferenceSession, part: onnxruntime.InferenceSession, feeds: Feeds) -> float:
    """Return the median of how many seconds less a run of a part takes than one of the whole."""
    times = interleaved_times([partial(own.run, None, dict(feeds)) for own in (whole, part)], _ROUNDS)
    return float(np.median(times[:, 0] - times[:, 1]))
