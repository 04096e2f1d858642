"""From sizes to weights, front to back: each layer is repaired for what it receives from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.squeezing.gathering import Problems, with_arrays
from onnxsqueeze.squeezing.ladders import Ladder, Network, Tell
from onnxsqueeze.squeezing.ordering import Removal
from onnxsqueeze.squeezing.reader import Reader
from onnxsqueeze.squeezing.refitting import refitted

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


class FrontToBack:
    """One squeeze under way.

    Attributes:
        arrays: the weights as they are now. removed: the units that have left.
    """

    def __init__(self, network: Network, ladders: Sequence[Ladder], sizes: Sequence[int]) -> None:
        """Begin with the dense network; families that no layer is repaired for leave at once."""
        self.arrays = network.arrays()
        self.removed = np.zeros(len(network.units), dtype=bool)
        self._network = network
        self._chosen: list[tuple[Ladder, int]] = []
        self._changed = False
        pairs = list(zip(ladders, sizes, strict=True))
        remaining = network.units.remaining(
            np.any([ladder.removed(size, self.removed.size) for ladder, size in pairs], 0)
        )
        for ladder, size in pairs:
            if size < ladder.family.size and not ladder.family.readers:
                self._leave(ladder.removed(size, self.removed.size))
            elif size < ladder.family.size:
                positions = ladder.family.kind == "column"  # of which so many go with their channels
                self._chosen.append((ladder, int(remaining[ladder.family.units].sum()) if positions else size))

    def run(self, tell: Tell, start: float = 0.0, end: float = 1.0) -> None:
        """Go through all layers."""
        readers = self._network.readers
        for number, reader in enumerate(readers):
            tell("squeezing", start + (end - start) * number / len(readers))
            problems = self._choose(reader)
            self._repair(reader, problems)

    def _choose(self, reader: Reader) -> Problems | None:
        """Decide which units of the families that a layer reads leave, from what the network gives by now.

        Returns:
            the layer's own moments, if what it reads did not change by that.
        """
        problems: dict[str, Problems] = {}
        shared = False
        own = [each for each in self._chosen if reader in each[0].family.readers]
        for ladder, size in sorted(own, key=lambda each: each[0].family.kind == "column"):  # positions after channels
            self._chosen = [each for each in self._chosen if each[0] is not ladder]
            family = ladder.family
            missing = [each for each in family.readers if each.name not in problems]
            problems.update(self._gather(missing))
            removal = Removal(family, self._network.units, problems, ladder.scores)
            removal.without(~self._network.units.remaining(self.removed)[family.units])
            removal.down_to(size)
            shared = shared or len(family.readers) > 1
            self._leave(removal.removed(self.removed.size))
        return None if shared else problems.get(reader.name)

    def _gather(self, readers: Sequence[Reader]) -> dict[str, Problems]:
        now = with_arrays(self._network.model, self.arrays) if self._changed else None
        return self._network.gathered(readers, now)

    def _leave(self, more: Bools) -> None:
        self.removed = self.removed | more
        self.arrays = self._network.masked(self.arrays, self.removed)
        self._changed = True

    def _repair(self, reader: Reader, problems: Problems | None) -> None:
        if not self._changed:
            return
        problems = problems or self._gather([reader])[reader.name]
        self.arrays = refitted(reader, problems, self._network.arrays(), self.arrays)
        self.arrays = self._network.masked(self.arrays, self.removed)
