"""How far two outputs lie apart, and how far they may."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

Array = npt.NDArray[Any]

# Half a unit in the last place of each type: what rounding one number moves it by at most, relative to its size.
_ROUNDOFF: dict[int, float] = {
    TensorProto.DOUBLE: 2.0**-53,
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
}
# The deviation, relative to the output's scale, that passes without a yardstick. Two orders of summation in a network
# of 50 to 150 float32 layers were seen to differ by 1e-6 to 1e-5. Networks in the 16-bit types round between operators
# and not within, so that five units in the last place are enough there. A wrong fold moves outputs by 1e-3 and more,
# but one wrong channel out of a thousand, in the midst of a deep network, by as little as 1e-5.
_FLOORS: dict[int, float] = {
    TensorProto.DOUBLE: 1e-9,
    TensorProto.FLOAT: 2e-5,
    TensorProto.FLOAT16: 10 * 2.0**-11,
    TensorProto.BFLOAT16: 10 * 2.0**-8,
}
# Where the rounding of the original was measured against float64, a quarter of that: what is more needs its yardstick.
_MEASURED = 0.25
# Both models round, each by about a yardstick's length: two of them lie between honest results. And the yardstick
# itself is the largest of a few runs, not of all, which makes another factor of two.
_YARDSTICKS = 4
# However badly a model is conditioned, more than this many floors are no rounding any more.
_MOST_FLOORS = 50
# A fold is computed in float64 and rounded once as it is stored; a few of them may add up on the way to an output.
_STORED_ROUNDINGS = 8
_EXACT = 1e-9  # float64 against float64: many thousand additions in another order, with room to spare


@dataclass(frozen=True)
class Difference:
    """How one output of one run differs from what was expected.

    Attributes:
        absolute: the largest difference; infinite where the two cannot be compared.
        scale: the largest finite magnitude that was expected.
        mismatches: how many elements differ at all; 0 for floating-point numbers.
        exact: whether no rounding is allowed for: integers, booleans, strings.
        problem: why the two cannot be compared; "" where they can.
    """

    absolute: float = 0.0
    scale: float = 0.0
    mismatches: int = 0
    exact: bool = False
    problem: str = ""

    def relative(self, scale: float) -> float:
        """Return the difference in units of a scale; where that is 0, anything but equality is infinitely far off."""
        if self.absolute == 0:
            return 0.0
        return self.absolute / scale if scale > 0 else math.inf


@dataclass(frozen=True)
class Tolerance:
    """The allowed difference: `relative` in units of the output's scale, plus `absolute`."""

    relative: float
    absolute: float = 0.0

    def of(self, scale: float) -> float:
        """Return the allowed difference in units of the output's scale."""
        if self.absolute == 0:
            return self.relative
        return self.relative + (self.absolute / scale if scale > 0 else math.inf)

    def allows(self, difference: Difference, scale: float) -> bool:
        """Whether a difference is small enough."""
        if difference.problem or difference.exact:
            return not difference.problem and difference.mismatches == 0
        return difference.absolute <= self.absolute + self.relative * scale


def default_tolerance(float_types: Iterable[int], yardstick: float, *, measured: bool) -> float:
    """Return the relative deviation to allow between two models that compute in their own types.

    Args:
        float_types: the types that they use.
        yardstick: how far rounding moves the original.
        measured: whether the yardstick comes from float64, and not only from two evaluations that round alike.
    """
    floor = _FLOORS[_coarsest(float_types)]
    return max(floor * (_MEASURED if measured else 1), min(_YARDSTICKS * yardstick, _MOST_FLOORS * floor))


def float64_tolerance(float_types: Iterable[int], yardstick: float, *, stores_new_values: bool) -> float:
    """Return the relative deviation to allow between two models evaluated in float64.

    Args:
        float_types: the types that the model itself uses, and stores its weights in.
        yardstick: how far rounding moves the original.
        stores_new_values: whether the minimized model stores numbers that the original does not, rounded to its types.
    """
    if not stores_new_values:
        return _EXACT
    coarsest = _coarsest(float_types)
    rounding = min(_YARDSTICKS * yardstick, _MOST_FLOORS * _FLOORS[coarsest])
    return max(_EXACT, _STORED_ROUNDINGS * _ROUNDOFF[coarsest], rounding)


def largest_plausible(float_types: Iterable[int]) -> float:
    """Return the relative deviation that rounding can plausibly make; what deviates more is something else."""
    return _MOST_FLOORS * _FLOORS[_coarsest(float_types)]


def _coarsest(float_types: Iterable[int]) -> int:
    return max(float_types, key=_ROUNDOFF.__getitem__, default=TensorProto.FLOAT)


def difference(expected: Any, actual: Any) -> Difference:
    """Compare two outputs of any kind: arrays, sequences, maps, absent optionals."""
    ours, theirs = dict(_leaves(expected)), dict(_leaves(actual))
    if ours.keys() != theirs.keys():
        return Difference(math.inf, problem=f"it has the parts {sorted(theirs)} instead of {sorted(ours)}")
    total = Difference()
    for key, array in ours.items():
        one = _array_difference(array, theirs[key])
        total = Difference(
            max(total.absolute, one.absolute),
            max(total.scale, one.scale),
            total.mismatches + one.mismatches,
            total.exact or one.exact,
            total.problem or one.problem,
        )
    return total


def leaves(value: Any) -> list[Array]:
    """Return the arrays that an output consists of."""
    return [array for _, array in _leaves(value)]


def _leaves(value: Any, path: str = "") -> list[tuple[str, Array]]:
    if value is None:
        return []
    if isinstance(value, dict):
        return [leaf for key, entry in value.items() for leaf in _leaves(entry, f"{path}/{key}")]
    if isinstance(value, (list, tuple)):
        return [leaf for index, entry in enumerate(value) for leaf in _leaves(entry, f"{path}/{index}")]
    return [(path, np.asarray(value))]


def is_floating(array: Array) -> bool:
    """Whether an array holds floating-point numbers, those of ml_dtypes (kind V) and complex ones included."""
    return array.dtype.kind in "fcV"


def _array_difference(expected: Array, actual: Array) -> Difference:
    exact = not (is_floating(expected) and is_floating(actual))
    if expected.shape != actual.shape:
        problem = f"its shape is {list(actual.shape)} instead of {list(expected.shape)}"
        return Difference(math.inf, exact=exact, problem=problem)
    if expected.dtype.kind in "OUS" or actual.dtype.kind in "OUS":
        mismatches = int(np.count_nonzero(expected != actual))
        return Difference(float(mismatches > 0), 1.0, mismatches, True)
    mismatches = int(np.count_nonzero(expected != actual)) if exact else 0
    wide = np.complex128 if "c" in (expected.dtype.kind, actual.dtype.kind) else np.float64
    return _number_difference(expected.astype(wide), actual.astype(wide), mismatches, exact)


def _number_difference(expected: Array, actual: Array, mismatches: int, exact: bool) -> Difference:
    finite = np.isfinite(expected)
    scale = float(np.max(np.abs(expected), where=finite, initial=0.0))
    if not finite.all() or not np.isfinite(actual).all():
        other = ~finite
        if not np.array_equal(expected[other], actual[other], equal_nan=True) or not np.isfinite(actual[finite]).all():
            return Difference(math.inf, scale, mismatches, exact, "it has NaN or Inf at other places")
        expected, actual = expected[finite], actual[finite]
    with np.errstate(over="ignore"):
        return Difference(float(np.max(np.abs(expected - actual), initial=0.0)), scale, mismatches, exact)
