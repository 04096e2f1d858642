"""A bar for each layer in a terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxsqueeze.reporting.layers import Layer

_UNKNOWN = "?"  # of a layer without a rule
_CELLS = 10  # of a bar


@dataclass(frozen=True)
class Bars:
    """A bar for each layer: what is needed, what could go but stays, what goes; in letters that stdout can show."""

    needed: str
    held: str
    gone: str

    @classmethod
    def of_stdout(cls) -> Bars:
        """Return bars of blocks where stdout can show these, else of plain signs."""
        try:
            "█▒·".encode(sys.stdout.encoding or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return cls("#", "+", ".")
        return cls("█", "▒", "·")

    @property
    def title(self) -> str:
        """The head of the column."""
        return "kept"

    @property
    def legend(self) -> str:
        """What the signs say."""
        return f"{self.needed} needed, {self.held} could go but stays, {self.gone} goes"

    def drawn(self, layer: Layer) -> str:
        """Return the bar of a layer, in tenths; what there is of anything is seen."""
        if not layer.channels:
            return _UNKNOWN
        idle = min(layer.channels, max(layer.removed, layer.dead + layer.constant))
        gone, held = _tenths(layer.removed, layer.channels), _tenths(idle - layer.removed, layer.channels)
        held = min(held, _CELLS - gone)
        return self.needed * (_CELLS - gone - held) + self.held * held + self.gone * gone


def _tenths(part: int, whole: int) -> int:
    if part <= 0:
        return 0
    return _CELLS if part >= whole else min(_CELLS - 1, max(1, round(_CELLS * part / whole)))
