"""Clip: between two limits, which early opsets give as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxsqueeze.abstract.arithmetic import _least, _most
from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.elementwise.broadcasting import Pointwise, pointwise_rule
from onnxsqueeze.operators.elementwise.special_values import clipped
from onnxsqueeze.rules.parameters import setting_parameters
from onnxsqueeze.rules.registry import register


def _clip_bounds(node: Node, intervals: Sequence[Interval]) -> Interval:
    """min(max(x, low), high), either bound optional."""
    result = intervals[0]
    if len(intervals) > 1 and node.input(1):
        result = _most(result, intervals[1])
    return _least(result, intervals[2]) if len(intervals) > 2 and node.input(2) else result


def _clip_by_attributes(node: Node, intervals: Sequence[Interval]) -> Interval:
    low, high = (_limit(node, name, value) for name, value in (("min", -np.inf), ("max", np.inf)))
    return Interval(np.clip(intervals[0].lower, low, high), np.clip(intervals[0].upper, low, high))


def _limit(node: Node, name: str, default: float) -> float:
    return float(node.attributes.get(name, default))


def _clip_value(node: Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


register(
    replace(
        pointwise_rule("Clip", Pointwise(_clip_value, _clip_bounds), parameters=setting_parameters, specials=clipped),
        since=11,
    ),
    replace(
        pointwise_rule(
            "Clip",
            Pointwise(
                lambda node, x: np.clip(x, _limit(node, "min", -np.inf), _limit(node, "max", np.inf)),
                _clip_by_attributes,
            ),
            specials=clipped,
        ),
        until=10,
    ),
)
