"""The units of a network: what can leave, what it costs, and the masks that make it leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.constraint import Constraint
from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.named_tensors import matches
from onnxsqueeze.reporting.concrete_shapes import concrete_shapes
from onnxsqueeze.units.class_uses import Classes, Gathered, Reading, Use
from onnxsqueeze.units.closure import settled
from onnxsqueeze.units.sizes import StoredWeight

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Kind = Literal["hidden", "stream", "head", "dim", "column"]


@dataclass(frozen=True, eq=False)
class Units:
    """All units of a network. A unit is a set of classes of channels that leave together; heads hold dims.

    Attributes:
        kinds: of each unit. "hidden": written and read by one layer, or few; "stream": a channel of several layers;
            "head": all of a head; "dim": one dim of a head, of which each head must lose equally many; "column": of
            a layer that reads what cannot be narrowed, or several positions of each channel.
        members: a bool matrix in compressed form, (unit of each entry, class of each entry), sorted by unit.
        tables: units of kind "dim", [heads, dims] for each attention: each row keeps equally many.
        groups: units of one kind side by side in a layer, of which some must stay.
        weights: the stored weights that have classes. readings, writings: where units are read and written.
        normalised: classes of each stream that a LayerNorm reads; one of those that leave stays there as a zero.
        gathered: the layers whose columns are units. They can be left out if that saves more elements than the indices
            take by which the others are gathered.
        constraints, fixed: what the planner will want back. elements: of the whole model.
        sizes: of dynamic dimensions, by name, at which multiply-accumulates are counted.
    """

    kinds: tuple[Kind, ...]
    members: tuple[Classes, Classes]
    tables: tuple[Classes, ...]
    groups: tuple[Classes, ...]
    weights: tuple[StoredWeight, ...]
    readings: tuple[Reading, ...]
    writings: tuple[Reading, ...]
    normalised: tuple[Classes, ...]
    gathered: tuple[Gathered, ...]
    constraints: tuple[Constraint, ...]
    fixed: Bools
    elements: int
    analysis: Analysis
    sizes: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.kinds)

    @cached_property
    def classes(self) -> int:
        """The number of classes, those of columns included."""
        return int(self.fixed.size)

    def of_kind(self, *kinds: Kind) -> Bools:
        """Return which units are of these kinds."""
        return np.isin(np.array(self.kinds, dtype=object).astype(str), kinds)

    @cached_property
    def channels(self) -> Floats:
        """How many channels each unit is where it is narrowest: groups that leave whole are several."""
        narrowest = np.full(self.classes, np.inf)
        for place in (*self.readings, *self.writings):
            classes, counts = np.unique(place.classes, return_counts=True)
            narrowest[classes] = np.minimum(narrowest[classes], counts)
        found = np.full(len(self), np.inf)
        np.minimum.at(found, self.members[0], narrowest[self.members[1]])
        return np.where(np.isfinite(found), found, 1.0)

    def per_unit(self, by_class: Floats) -> Floats:
        """Sum a vector over classes for each unit."""
        return np.bincount(self.members[0], by_class[self.members[1]], len(self)).astype(np.float64)

    def kept(self, removed: Bools) -> Bools:
        """Return which classes stay without some units, those that the planner puts back among them."""
        gone = np.zeros(self.classes, dtype=bool)
        gone[self.members[1][removed[self.members[0]]]] = True
        inner = self.analysis.classes
        kept = ~gone
        kept[:inner] = settled(self.constraints, self.fixed[:inner], gone[:inner])
        return kept

    def read(self, removed: Bools) -> Bools:
        """Return which units the network's outputs still depend on once some have left.

        A unit that this leaves out costs nothing more. The first of those side by side in a layer is always left out:
        it was zero when the network was analysed.
        """
        inner = self.analysis.classes
        gone = ~self.kept(removed)
        live = self.analysis.backward(np.zeros(inner, dtype=bool), gone[:inner]).live
        found = np.zeros(self.classes, dtype=bool)
        for name, mask in live.items():
            found[self.analysis.classes_of(name)[mask & ~self.analysis.constant(name)]] = True
        for layer in self.gathered:
            found[layer.columns] = found[layer.rows].any() & ~gone[layer.read]
        return self.per_unit((found & ~gone).astype(np.float64)) > 0

    def left(self, removed: Bools, standing: bool = True) -> int:
        """Return how many weight elements of the model are left when units have been removed and it is minimized.

        Args:
            removed: the units.
            standing: whether to count the channel that stays in each stream that a LayerNorm reads. Readers can often
                do without it, so that what is left in truth lies between the two counts.
        """
        kept = self.kept(removed)
        for stream in self.normalised if standing else ():
            if kept[stream].any() and not kept[stream].all():
                kept[stream[int(np.argmin(kept[stream]))]] = True
        for layer in self.gathered:
            there = kept[layer.read]
            stay = int(kept[layer.columns[there]].sum())
            if (int(there.sum()) - stay) * int(kept[layer.rows].sum()) <= stay:
                kept[layer.columns] = True
        whole = sum(float(np.prod(weight.shape)) for weight in self.weights)
        return round(self.elements - whole + sum(weight.left(kept) for weight in self.weights))

    def macs_left(self, removed: Bools) -> float:
        """Return the multiply-accumulates of one sample that are left in layers when units have been removed."""
        kept = self.kept(removed)
        return sum(self._positions[w.name] * w.left(kept) for w in self.weights if w.name in self._positions)

    def gone(self, removed: Bools) -> Bools:
        """Return which units are gone without some, those that follow among them, but not those that are put back."""
        lost = ~self.kept(removed)
        return np.asarray(np.bincount(self.members[0], ~lost[self.members[1]], len(self)) == 0)

    def remaining(self, removed: Bools) -> Bools:
        """Return which units are there without some; positions leave with their channel as well."""
        kept = self.kept(removed)
        for layer in self.gathered:
            kept[layer.columns] &= kept[layer.read]
        return np.asarray(np.bincount(self.members[0], kept[self.members[1]], len(self)) > 0)

    def masks(self, removed: Bools) -> dict[str, Bools]:
        """Return by initializer which elements stay (True) when units are removed; only those that lose some.

        Their rows in what writes them, their columns in what reads them, and what is added or multiplied for them.
        """
        kept = self.kept(removed)
        found = {}
        for weight in self.weights:
            mask = weight.mask(kept)
            if not mask.all():
                found[weight.name] = np.ascontiguousarray(np.broadcast_to(mask, weight.shape))
        return found

    def named(self, patterns: Sequence[str]) -> Bools:
        """Return which units have channels in tensors of these names, or names that fit these glob patterns."""
        found = np.zeros(self.classes, dtype=bool)
        for name in self.analysis.context.elements.ids:
            if matches(name, patterns):
                found[self.analysis.classes_of(name)] = True
        for reading in self.readings:
            if matches(reading.tensor, patterns):
                found[reading.classes] = True
        return self.per_unit(found.astype(np.float64)) > 0

    def elements_under(self, masks: Mapping[str, Bools]) -> Floats:
        """Return of each unit how many elements some masks leave it, of those that must go for it to leave."""
        total = np.zeros(self.classes)
        for weight in self.weights:
            stays = masks.get(weight.name, np.ones((1,) * len(weight.shape), dtype=bool))
            for use in weight.uses:
                if use.erase and len(weight.shape) > 1:
                    total += _elements_by_class(use, stays, weight.shape, self.classes)
        return self.per_unit(total)

    def cost(
        self, measure: Literal["parameters", "macs"] | Mapping[int, float] = "parameters", removed: Bools | None = None
    ) -> Floats:
        """Return what each unit costs, float64; what has been removed already costs nothing.

        Args:
            measure: weight elements; multiply-accumulates of one sample; or by group (its number in ``groups``) the
                seconds that each of its units takes, as `measured_latency` returns them. Units of no such group take
                as long for their elements as the others on average.
            removed: units that have left before.

        Raises:
            UsageError: for another measure.
        """
        kept = np.ones(self.classes, dtype=bool) if removed is None else self.kept(removed)
        if isinstance(measure, Mapping):
            return self._seconds(measure, self.cost("parameters", removed))
        if measure == "parameters":
            counted = self.weights
            positions = dict.fromkeys((weight.name for weight in counted), 1.0)
        elif measure == "macs":
            positions = self._positions
            counted = tuple(weight for weight in self.weights if weight.name in positions)
        else:
            raise UsageError(f"units have no cost {measure!r}; give 'parameters', 'macs' or a mapping")
        total = np.zeros(self.classes)
        for weight in counted:
            total += positions[weight.name] * weight.hanging(kept, self.classes)
        return self.per_unit(total)

    def _seconds(self, by_group: Mapping[int, float], elements: Floats) -> Floats:
        found = np.zeros(len(self))
        for number, value in by_group.items():
            found[self.groups[number]] = value
        known = (found > 0) & (elements > 0)
        rate = found[known].sum() / elements[known].sum() if known.any() else 1.0
        return np.where(elements > 0, np.where(found > 0, found, elements * rate), 0.0)

    @cached_property
    def _positions(self) -> dict[str, float]:
        """For each weight that is multiplied, at how many positions of one sample it is."""
        shapes, _ = concrete_shapes(self.analysis, self.sizes)
        found: dict[str, float] = {}
        for weight in self.weights:
            for use in weight.uses:
                if use.output:
                    found[weight.name] = found.get(weight.name, 0.0) + _count(use, shapes, self.analysis)
        return found


def _count(use: Use, shapes: Mapping[str, tuple[object, ...]], analysis: Analysis) -> float:
    """Return the number of positions of a tensor for one sample: its elements without channels, and sizes of 1."""
    found = shapes.get(use.output, analysis.context.shapes[use.output])
    shape = [size if isinstance(size, int) else 1 for size in found]
    channels = max(1, int(np.prod(analysis.context.ids(use.output).shape)))
    return max(1.0, float(np.prod(shape)) / channels)


def _elements_by_class(use: Use, stays: Bools, shape: tuple[int, ...], classes: int) -> Floats:
    """Count for each class the elements of a weight that stay; ``stays`` broadcasts against its shape."""
    total = np.zeros(classes)
    for array in use.arrays:
        alike = tuple(axis for axis, length in enumerate(array.shape) if length == 1)
        own = np.broadcast_to(stays, np.broadcast_shapes(stays.shape, array.shape)).sum(axis=alike, keepdims=True)
        repeats = np.prod(shape) / np.prod(np.broadcast_shapes(stays.shape, array.shape))
        total += np.bincount(array.ravel(), own.ravel() * repeats, classes)
    return total
