"""Stored weights with several users that are sliced once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxsqueeze.rules.weight_source import Stored, stored

if TYPE_CHECKING:
    from onnxsqueeze.rules.contract import Context


def tied(context: Context, name: str) -> Stored | None:
    """Return where a constant comes from if that is a stored weight which is to be sliced once for all its users."""
    if not context.learned.tied:
        return None
    found = stored(context.graph, name, context.rank(name))
    return found if found is not None and found.name in context.learned.tied else None


def tie(context: Context, name: str, along: Mapping[int, npt.NDArray[np.int64]]) -> None:
    """The users of a stored weight that is to be sliced once keep the same positions along each of its axes.

    ``along`` gives the classes of the positions along axes of the constant that a user calls ``name``.
    """
    found = tied(context, name)
    if found is None:
        return
    for axis, classes in along.items():
        first = context.scratch.setdefault(("tied", found.name, found.order[axis]), classes)
        context.elements.union(first, classes)
