"""Matrices among the constants of a node that has several: what each is multiplied by, and where it is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Product:
    """One matrix for each of several groups, as the directions of a recurrent layer.

    Attributes:
        data: the tensor that it is multiplied by. weight, out: the constant, [groups, out, columns] as it is stored,
            and which positions along its second axis.
        bias, part: the constant that is added, and which positions along its last axis; "" where there is none.
        columns: identifiers of the classes of its columns, [groups, columns].
        rows: from a value of the data, and of what is ``beside`` it, to what each matrix is multiplied by,
            [groups, places, columns].
        recurs: whether the data is what the node itself writes, one step before.
        beside: another tensor that this depends on, "" without.
    """

    data: str
    weight: str
    out: slice
    bias: str
    part: slice
    columns: Classes
    rows: Callable[..., Array]
    recurs: bool = False
    beside: str = ""
