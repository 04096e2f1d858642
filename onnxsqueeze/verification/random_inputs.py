"""Draw inputs at random that fit their types and what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, ValueInfoProto, helper

from onnxsqueeze.errors import UsageError
from onnxsqueeze.verification.dimension_sizes import input_type
from onnxsqueeze.verification.integer_ranges import ONE, IntegerRanges, Range
from onnxsqueeze.verification.model_source import SMALL, Source
from onnxsqueeze.verification.sessions import Values
from onnxsqueeze.verification.signature import describe

Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]

_MOST_AXES = 64  # of an array in numpy
_WORDS = ("", "a", "b", "the", "word", "two words", "Zürich", "42")
_INTEGERS = {
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}
_SEQUENCE_LENGTH = 2


class Policy(Enum):
    """Which values to draw: the first policy is used that the original accepts and answers with finite numbers."""

    FITTING = "normal and uniform floats, integers as their readers need them"
    POSITIVE = "floats between 0 and 1, for operators such as Log and Sqrt"
    ONES = "integers all 1"


@dataclass(frozen=True)
class Drawer:
    """Draws the inputs of one model.

    Attributes:
        source: the model.
        ranges: the integers that its inputs may take.
        seed: the user's seed.
    """

    source: Source
    ranges: IntegerRanges
    seed: int

    def draw(self, policy: Policy, shapes: Shapes, run: tuple[int, int]) -> Values:
        """Draw all inputs.

        Args:
            policy: which values.
            shapes: the shape of each input; of one element, for sequences.
            run: the numbers of the sizes and of the sample: equal ones draw equal inputs.

        Raises:
            UsageError: when an input has a type that cannot be drawn.
        """
        random = np.random.default_rng([self.seed, *run])
        # Every other sample is uniform: images come so, and it lights units that a centred input leaves dark.
        uniform = policy is Policy.POSITIVE or run[1] % 2 == 1
        drawn: Values = {}
        for value in self.source.inputs:
            kind = value.type
            if kind.WhichOneof("value") == "optional_type":
                kind = kind.optional_type.elem_type
            if kind.WhichOneof("value") == "sequence_type":
                drawn[value.name] = [
                    self._array(value, policy, shapes, random, uniform) for _ in range(_SEQUENCE_LENGTH)
                ]
            else:
                drawn[value.name] = self._array(value, policy, shapes, random, uniform)
        return drawn

    def overrides(self) -> Values:
        """Draw other values for the floating-point initializers that a caller may override, if they are not many."""
        random = np.random.default_rng([self.seed])
        names = [value.name for value in self.source.overridable if input_type(value).tensor_type.elem_type in _FLOATS]
        if not names or self.source.weights > SMALL:
            return {}
        initializers = self.source.model().initializers
        arrays = {name: initializers[name].array for name in names if name in initializers}
        return {
            name: (array * random.uniform(0.5, 1.5, array.shape)).astype(array.dtype) for name, array in arrays.items()
        }

    def _array(
        self, value: ValueInfoProto, policy: Policy, shapes: Shapes, random: np.random.Generator, uniform: bool
    ) -> Array:
        elem_type, shape = input_type(value).tensor_type.elem_type, shapes[value.name]
        if len(shape) > _MOST_AXES:
            raise UsageError(f"cannot verify: input '{value.name}' has {len(shape)} axes, more than numpy's arrays")
        if elem_type == TensorProto.STRING:
            return np.array(random.choice(_WORDS, shape), dtype=object)
        if elem_type in _FLOATS:
            drawn = random.random(shape) if uniform else random.standard_normal(shape)
        elif elem_type in _INTEGERS or elem_type == TensorProto.BOOL:
            low, high = self._range(value, elem_type, policy, shapes)
            drawn = _attending(value, random.integers(low, high, shape, endpoint=True))
        else:
            raise UsageError(
                f"cannot verify: input '{value.name}' is {describe(value.type)}, for which no values can be drawn"
            )
        return np.asarray(drawn).astype(helper.tensor_dtype_to_np_dtype(elem_type))

    def _range(self, value: ValueInfoProto, elem_type: int, policy: Policy, shapes: Shapes) -> Range:
        if elem_type == TensorProto.BOOL:
            return Range(0, 1)
        if policy is Policy.ONES:
            return ONE
        low, high = self.ranges.range(value, elem_type, shapes)
        limits = np.iinfo(helper.tensor_dtype_to_np_dtype(elem_type))
        return Range(max(low, int(limits.min)), min(high, int(limits.max)))


def _attending(value: ValueInfoProto, array: Array) -> Array:
    """Let each row of a mask keep its first place: attention to nothing at all is no number."""
    if "mask" in value.name.lower() and array.ndim and array.size:
        array[..., 0] = 1
    return array
