"""What carrying out a plan can teach: each lesson says what the next attempt must do otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxsqueeze.abstract.compact import Bools


class FoldOverflow(Exception):
    """A folded constant does not fit the data type.

    Attributes:
        tensor: the activation that must keep its constants.
        channel: (axis, position) of the only one of them that must stay, None for all.
    """

    def __init__(self, tensor: str, channel: tuple[int, int] | None = None) -> None:
        super().__init__(tensor, channel)
        self.tensor = tensor
        self.channel = channel


class StillRead(Exception):
    """A node that stays reads a tensor of which the plan keeps nothing. ``tensor`` names it."""

    def __init__(self, tensor: str) -> None:
        super().__init__(tensor)
        self.tensor = tensor


class NotSpanned(Exception):
    """A tensor's removed elements follow from others, but not all of its readers can compute with those instead.

    ``tensor`` names it; analyse again with all of it kept.
    """

    def __init__(self, tensor: str) -> None:
        super().__init__(tensor)
        self.tensor = tensor


class NotZero(Exception):
    """Layers need rows or columns of their weights that are zeros in the file: others came to stand for removed ones.

    ``used`` holds by node index the columns [in] and rows [out] that are no zeros then; plan again with them.
    """

    def __init__(self, used: Mapping[int, tuple[Bools, Bools]]) -> None:
        super().__init__(*used)
        self.used = used


@dataclass(frozen=True)
class Known:
    """What an earlier analysis and plan of the same graph found out.

    Attributes:
        settled: activations that are constant wherever they are needed.
        tied: stored weights with several users that are to be sliced alike, since copies would be larger.
        widened: activations that are to be whole although what they are computed from is narrowed.
    """

    settled: frozenset[str] = frozenset()
    tied: frozenset[str] = frozenset()
    widened: frozenset[str] = frozenset()
