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
Bools = npt.NDArray[np.bool_]


class Reader(ABC):
    """One matrix, or one for each of several groups, by which a node multiplies what it reads: it can be repaired.

    Attributes:
        name: of its own. tensors: what `rows` looks at. contracted: of which of those it sums over all channels.
        groups: how many matrices. columns: how many each has.
        classes: the class of each of its input channels; -1 for what is no unit's.
        positions: the class of each that can leave without the others of its own, as behind Flatten; None for none.
        stored: its weights' initializers.
        recurs: whether what it reads depends on what it writes, so that it is repaired for what the original read.
        free: whether its weights may be whatever suits it best, so that algebra says what a column is worth.
    """

    name: str
    tensors: tuple[str, ...]
    contracted: tuple[str, ...]
    groups: int
    columns: int
    classes: Numbers
    stored: frozenset[str]
    positions: Numbers | None = None
    recurs: bool = False
    free: bool = True

    def reads(self, classes: Bools) -> bool:
        """Whether it reads any of the classes that are marked."""
        return any(bool(classes[own].any()) for own in (self.classes, self.positions) if own is not None)

    @abstractmethod
    def places(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return at how many places a batch is read, from the shapes of the tensors."""

    @abstractmethod
    def rows(self, given: Mapping[str, Array], most: int, generator: np.random.Generator) -> Floats:
        """Return what the layer multiplies by, [groups, places, columns], float64, at some places drawn at random.

        Args:
            given: a batch of the tensors that it reads, by name. most: how many places to take at most.
            generator: draws them; from the same state it draws the same.
        """

    def lookups(self, given: Mapping[str, Array]) -> Floats | None:
        """Return how often a batch looks up each row of its weight elsewhere, [out]; None where it is no table."""
        return None

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
