"""A layer that multiplies by one weight, as what can be repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxsqueeze.rules.contract import OpRule
from onnxsqueeze.squeezing.least_squares import Floats, Numbers
from onnxsqueeze.squeezing.reader import Array, Arrays, Reader
from onnxsqueeze.units.weight_uses import Use


class LinearReader(Reader):
    """A layer that multiplies by one weight.

    Attributes:
        use: the layer and how its weight is stored. rule: of its operator.
    """

    def __init__(self, use: Use, rule: OpRule, classes: Numbers, positions: Numbers | None = None) -> None:
        self.use, self.rule, self.classes, self.positions = use, rule, classes, positions
        self.name, self.groups = use.node.outputs[0], use.linear.groups
        self.tensors = self.contracted = (use.linear.data,)
        self.columns = int(np.prod(use.linear.matrix.shape[2:]))
        self.stored = frozenset({use.weight})

    def places(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return at how many places a batch is read: all but the channels."""
        shape = shapes[self.use.linear.data]
        return int(np.prod(shape)) // max(1, shape[self.use.linear.data_axis])

    def rows(self, given: Mapping[str, Array], most: int, generator: np.random.Generator) -> Floats:
        """Return the data of all channels at places, or patches."""
        linear, data = self.use.linear, given[self.use.linear.data]
        if self.rule.patches is not None:
            seen = self.rule.patches(self.use.node, linear, data)
            front = seen.shape[: seen.ndim - (data.ndim - 1)]
        else:
            seen = np.moveaxis(data, linear.data_axis, -1)
            front = seen.shape[:-1]
        count = int(np.prod(front))
        chosen = np.arange(count)
        if count > most:
            chosen = np.sort(generator.choice(count, most, replace=False))
        found = seen[np.unravel_index(chosen, front)] if front else seen[None]
        split = found.astype(np.float64).reshape(len(chosen), linear.groups, self.columns)
        return np.asarray(split.transpose(1, 0, 2))

    def weight(self, arrays: Arrays) -> Floats:
        """Return its weights as they are now, [groups, out, columns], factors included."""
        linear = self.use.linear
        stored = self.use.read_from(arrays[self.use.weight]).astype(np.float64)
        return np.asarray(stored.reshape(*stored.shape[:2], -1)) * linear.scale

    def bias(self, arrays: Arrays) -> Floats | None:
        """Return its bias as it is now, [groups, out]; None where it has none of its own."""
        if not self.use.bias:
            return None
        linear = self.use.linear
        return arrays[self.use.bias].astype(np.float64).reshape(linear.groups, -1) * linear.bias_scale

    def written(self, arrays: Arrays, weight: Floats, bias: Floats | None) -> dict[str, Array]:
        """Return the stored tensors for a weight and a bias as `weight` and `bias` give them."""
        linear, stored = self.use.linear, arrays[self.use.weight]
        matrix = (weight / linear.scale).reshape(linear.matrix.shape).astype(stored.dtype)
        found = {self.use.weight: self.use.written_into(stored, matrix)}
        if bias is not None and self.use.bias:
            own = arrays[self.use.bias]
            found[self.use.bias] = (bias / linear.bias_scale).reshape(own.shape).astype(own.dtype)
        return found

    def column_classes(self) -> Numbers:
        """Return the class of each column, [groups, columns]."""
        taps = self.use.linear.matrix.shape[3]
        return np.repeat(self.classes.reshape(self.groups, -1), taps, axis=1)
