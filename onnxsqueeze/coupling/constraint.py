"""What every relation between classes answers: how it is enforced, when, and what it means for parts that may leave.

A constraint sees which classes stay and may only add to them, so enforcing all of them again and again ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, auto
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats
from onnxsqueeze.coupling.keep_reason import Reason, Why

Classes = npt.NDArray[np.int64]
NO_CLASSES: Classes = np.zeros(0, np.int64)
_Same = TypeVar("_Same", bound="Constraint")


@dataclass
class Kept:
    """Which classes stay, and why: the first reason wins.

    Attributes:
        mask, reasons: by class.
        cost: the weight elements that keeping a class costs; where any class would do, the cheapest are added.
        live: by tensor, which elements are needed if just these classes stay (compact).
        additions: how often something was added.
        node: whose wish is being followed, as a user knows it; "" for nobody's.
    """

    mask: Bools
    reasons: npt.NDArray[np.object_]
    cost: Floats
    live: Mapping[str, Bools]
    additions: int = 0
    node: str = ""

    def add(self, classes: Classes, reason: Reason, detail: str = "") -> None:
        """Make ``classes`` stay, because of `node`."""
        new = classes[~self.mask[classes]]
        if new.size:
            self.mask[new] = True
            self.additions += 1
            entry = np.empty((), dtype=object)
            entry[()] = Why(reason, detail, self.node)
            self.reasons[new] = entry

    def lost(self, tensor: str, classes: Classes) -> Bools:
        """Return which channels of a tensor leave although something reads them, where ``classes`` has them."""
        if tensor not in self.live:
            return np.full(classes.shape, False)
        live = np.broadcast_to(self.live[tensor].ravel(), (classes.size,)).reshape(classes.shape)
        return np.asarray(~self.mask[classes] & live)


class Phase(Enum):
    """When a constraint is enforced. Where several would choose, what the first one adds decides."""

    FORCED = auto()
    """It leaves no choice of what to add: before any choice is made, and again after each."""
    IN_TURN = auto()
    """After these, in the order in which operators state them."""
    LAST = auto()
    """After all others, since whatever else stays will do."""


@dataclass(frozen=True)
class Row:
    """The classes of one head in one tensor, and those that stand for the head as a whole, such as its scores."""

    classes: Classes
    labels: Classes


@dataclass(frozen=True)
class Constraint(ABC):
    """A relation between classes.

    Its dataclass fields annotated `Classes` or ``tuple[Classes, ...]`` hold class identifiers, until `labelled` has
    translated them; other arrays of integers (positions) are annotated otherwise. Besides `enforce`, each question has
    an answer that suits a relation which has nothing to say about it.

    Attributes:
        phase: when it is enforced.
        by_value: whether it depends on what the weights are, so that it says nothing of weights about to be masked.
        keeps_last: whether all that it asks for is that a layer does not lose the last of what it reads.
    """

    phase: ClassVar[Phase] = Phase.IN_TURN
    by_value: ClassVar[bool] = False
    keeps_last: ClassVar[bool] = False

    def labelled(self: _Same, labels: Classes) -> _Same:
        """Return the same constraint on final class numbers; ``labels`` gives them by identifier."""
        translated: dict[str, Any] = {}
        for name, several in _class_fields(type(self)).items():
            value = getattr(self, name)
            translated[name] = tuple(labels[each] for each in value) if several else labels[value]
        return replace(self, **translated)

    @abstractmethod
    def enforce(self, kept: Kept) -> None:
        """Add classes until the relation holds."""

    def coupled(self) -> Iterable[tuple[Classes, Classes]]:
        """Return pairs of arrays (which broadcast) of classes that can only leave together, whatever the weights."""
        return ()

    def rows(self) -> Iterable[list[Row]]:
        """Return what it ties together of each head (or group): lists of rows that leave whole, and all at once."""
        return ()

    def tables(self) -> Iterable[Classes]:
        """Return arrays [rows, size] of which each row keeps equally many classes, at places of its own."""
        return ()

    def serving(self) -> Iterable[tuple[Classes, Classes]]:
        """Return pairs of arrays [n, served] and [n]: each of the latter is of no use without some of its row."""
        return ()

    def side_by_side(self) -> Classes:
        """Return classes of any shape, some of each head (or group) of one layer, which are there beside each other."""
        return NO_CLASSES

    def normalised(self) -> Classes:
        """Return the classes of a stream, of which one constant stays for those that leave."""
        return NO_CLASSES


@cache
def _class_fields(kind: type[Constraint]) -> dict[str, bool]:
    """Return by name the fields that hold class identifiers, and whether as a tuple of arrays."""
    wanted = {Classes: False, tuple[Classes, ...]: True}
    hints = get_type_hints(kind)
    return {field.name: wanted[hints[field.name]] for field in fields(kind) if hints[field.name] in wanted}
