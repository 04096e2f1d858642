"""What can be repaired: a matrix by which a node multiplies what it reads, wherever it is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.squeezing.least_squares import Floats, Numbers

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
"""The weights of a network as it is now, by name."""


class Reader(ABC):
    """One matrix, or one for each of several groups, by which a node multiplies what it reads: it can be repaired.

    Attributes:
        name: of its own. data: the tensor that it reads. groups: how many matrices. columns: how many each has.
        classes: the class of each of its input channels; -1 for what is no unit's. stored: its weights' initializers.
        recurs: whether it reads what its own node writes, so that it is repaired for what the original wrote.
        beside: another tensor that what it reads depends on, "" without.
    """

    name: str
    data: str
    groups: int
    columns: int
    classes: Numbers
    stored: frozenset[str]
    recurs: bool = False
    beside: str = ""

    @property
    def tensors(self) -> list[str]:
        """The tensors that `rows` looks at."""
        return [self.data, *([self.beside] if self.beside else [])]

    @abstractmethod
    def places(self, shape: Sequence[int]) -> int:
        """Return at how many places a batch of data of a shape is read."""

    @abstractmethod
    def rows(self, given: Mapping[str, Array], most: int, generator: np.random.Generator) -> Floats:
        """Return what the layer multiplies by, [groups, places, columns], float64, at some places drawn at random.

        Args:
            given: a batch of the tensors that it reads, by name. most: how many places to take at most.
            generator: draws them; from the same state it draws the same.
        """

    @abstractmethod
    def weight(self, arrays: Arrays) -> Floats:
        """Return its weights as they are now, [groups, out, columns], factors included."""

    @abstractmethod
    def bias(self, arrays: Arrays) -> Floats | None:
        """Return its bias as it is now, [groups, out]; None where it has none of its own."""

    @abstractmethod
    def written(self, arrays: Arrays, weight: Floats, bias: Floats | None) -> dict[str, Array]:
        """Return the stored tensors for a weight and a bias as `weight` and `bias` give them."""

    @abstractmethod
    def column_classes(self) -> Numbers:
        """Return the class of each column, [groups, columns]."""
