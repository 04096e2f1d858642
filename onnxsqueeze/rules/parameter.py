"""The constants of a node: what each does, and which classes of channels its elements belong to.

A node may have several: the kernels and biases of a recurrent layer, the scale, bias, mean and variance of a batch
normalization, the weight, scale, zero point and bias of a quantized layer. Reports, costs, multiply-accumulates and the
units of training follow from this one answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools

Classes = npt.NDArray[np.int64]


class Role(Enum):
    """What a constant does to the channels that its elements belong to."""

    WEIGHT = "multiplied by the data and summed over: zeros in it make channels dead"
    SUMMAND = "added, or laid beside the data: a channel is zero only where it is"
    FACTOR = "multiplied elementwise: a channel of zeros stays zero whatever it is"
    OPERAND = "goes with its channel, but zeros in it would be another function: a divisor, a variance, a zero point"
    SETTING = "belongs to no channel: a scale of sizes, a bound"


@dataclass(frozen=True)
class Parameter:
    """One constant of a node.

    Attributes:
        name, position: the tensor, and the input at which the node reads it.
        role: what it does.
        classes: identifiers of classes, arrays of the constant's rank, with length 1 along axes on which they do not
            depend. An element leaves with any of its classes; without any it belongs to no channel.
        data: the tensor, and those of its axes, at each of whose positions a weight is multiplied once; None for what
            costs nothing.
        zero_point, zero_axes: the tensor with the codes that stand for 0, where the constant is quantized, and the axes
            of the constant along which its own lie, if there are several; "" where 0 is 0.
        packed: how many numbers an element holds.
    """

    name: str
    position: int
    role: Role
    classes: tuple[Classes, ...] = ()
    data: tuple[str, tuple[int, ...]] | None = None
    zero_point: str = ""
    zero_axes: tuple[int, ...] = (0,)
    packed: int = 1

    def _separate(self) -> list[int] | None:
        """Return the axis along which each array of classes varies, -1 for none; None if they do not one by one."""
        varying = [[axis for axis, length in enumerate(array.shape) if length > 1] for array in self.classes]
        axes = [own[0] if own else -1 for own in varying]
        alone = all(len(own) < 2 for own in varying) and all(axis < 0 or axes.count(axis) == 1 for axis in axes)
        return axes if alone else None

    def kept(self, stays: Bools) -> Bools:
        """Return which elements stay (compact), given which identifiers of classes do."""
        found: Bools = np.full((), True)
        for array in self.classes:
            found = found & stays[array]
        return found

    def shape_left(self, stays: Bools, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what stays; where rows keep different positions, they keep equally many.

        Args:
            stays: which identifiers of classes stay. shape: of the constant.
        """
        lengths, axes = list(shape), self._separate()
        if axes is not None:
            for array, axis in zip(self.classes, axes, strict=True):
                if axis >= 0:
                    lengths[axis] = int(stays[array].sum())
                elif not stays[array].all():
                    return (0,) * len(shape)
            return tuple(lengths)
        mask = self.kept(stays)
        for axis, length in enumerate(mask.shape):
            if length > 1:
                lengths[axis] = int(mask.sum(axis=axis).max(initial=0))
        return tuple(lengths) if mask.any() else (0,) * len(shape)
