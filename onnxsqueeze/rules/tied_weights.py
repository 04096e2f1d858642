"""WeightSource weights with several users that are sliced once for all of them.

`Context.tied` holds for each part of such a weight (what lies along one of its axes, or one role of the classes around
it) those classes that its first user gave to it; the classes of every other user are united with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxsqueeze.rules.weight_source import WeightSource, source_of

if TYPE_CHECKING:
    from onnxsqueeze.rules.contract import Context


def tied(context: Context, name: str) -> WeightSource | None:
    """Return where a constant comes from if that is a stored weight which is to be sliced once for all its users."""
    if not context.learned.tied:
        return None
    found = source_of(context.graph, name, context.rank(name))
    return found if found is not None and found.name in context.learned.tied else None


def tie(context: Context, name: str, along: Mapping[int, npt.NDArray[np.int64]]) -> None:
    """The users of a stored weight that is to be sliced once keep the same positions along each of its axes.

    ``along`` gives the classes of the positions along axes of the constant that a user calls ``name``.
    """
    found = tied(context, name)
    if found is None:
        return
    for axis, classes in along.items():
        _unite(context, (found.name, "axis", found.order[axis]), classes)


def tie_parts(context: Context, name: str, parts: Mapping[tuple[str | int, ...], npt.NDArray[np.int64]]) -> None:
    """Like `tie`, for users that no single axis of the weight tells apart, and that read it as it is stored.

    ``parts`` gives classes by what they are to such a user, "inputs" say, and by the layout in which it reads them.
    """
    if name in context.learned.tied:
        for part, classes in parts.items():
            _unite(context, (name, *part), classes)


def _unite(context: Context, part: tuple[str | int, ...], classes: npt.NDArray[np.int64]) -> None:
    context.elements.union(context.tied.setdefault(part, classes), classes)
