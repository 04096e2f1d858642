"""Element classes: which channels of which tensors stand at the same physical slot and so leave together or not at all.

Each activation carries an integer array of class identifiers of the tensor's own rank, with length 1 on each axis along
which all elements share one class (and which therefore cannot be narrowed, only vanish as a whole).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnxsqueeze.coupling.constraint import Constraint

Ids = npt.NDArray[np.int64]


class Elements:
    """The classes of all activations and what must hold between the classes that stay.

    Attributes:
        ids: by tensor name, the class of each element (compact). Call `canonical` for final class numbers.
        constraints: relations that may force more classes to stay.
        origins: by position in ``constraints``, the node that states one, as a user knows it.
        shuffles: by the tensor that a channel shuffle ends in, the one that it starts from; the same classes, permuted.
        loose: the tensors inside of a shuffle, which need not be boxes since it can be done another way.
        strict: tensors whose kept elements must be a product of kept positions along each axis; elsewhere the
            positions along the last axis may differ from row to row as long as each row keeps equally many.
        inner: by node, the name in ``ids`` of what it computes inside and can narrow (queries that Attention projects).
    """

    def __init__(self) -> None:
        self.ids: dict[str, Ids] = {}
        self.constraints: list[Constraint] = []
        self.origins: dict[int, str] = {}
        self.shuffles: dict[str, str] = {}
        self.loose: set[str] = set()
        self.strict: set[str] = set()
        self.inner: dict[int, str] = {}
        self._count = 0
        self._pairs: list[tuple[Ids, Ids]] = []

    def fresh(self, shape: tuple[int, ...]) -> Ids:
        """Return new classes, one for each element of a compact shape."""
        size = int(np.prod(shape, dtype=np.int64))
        ids = np.arange(self._count, self._count + size, dtype=np.int64).reshape(shape)
        self._count += size
        return ids

    def union(self, left: Ids, right: Ids) -> Ids:
        """Make the elements at equal (broadcast) positions share a class; return the broadcast array."""
        left, right = np.broadcast_arrays(left, right)
        if left is not right and not np.array_equal(left, right):
            self._pairs.append((left.ravel(), right.ravel()))
        return left

    def merge(self, ids: Ids, axes: tuple[int, ...]) -> Ids:
        """Make all elements along ``axes`` share a class; return the array with length 1 there."""
        for axis in axes:
            if ids.shape[axis] > 1:
                first = ids[(slice(None),) * axis + (slice(0, 1),)]
                self.union(np.broadcast_to(first, ids.shape), ids)
                ids = first
        return ids

    def canonical(self) -> tuple[npt.NDArray[np.int64], int]:
        """Return (class of each identifier, number of classes), the unions resolved."""
        root = connected(self._count, self._pairs)
        _, labels = np.unique(root, return_inverse=True)
        return labels, int(labels.max(initial=-1)) + 1


def connected(count: int, pairs: Sequence[tuple[Ids, Ids]]) -> Ids:
    """Return for each of ``count`` numbers the smallest in its connected component.

    Arrays of a pair broadcast; their elements at equal positions are connected. All at once: the larger root is hooked
    to the smaller one, then the paths are shortened.
    """
    root = np.arange(count, dtype=np.int64)
    flat = [[side.ravel() for side in np.broadcast_arrays(*pair)] for pair in pairs]
    if not flat:
        return root
    left, right = (np.concatenate(side) for side in zip(*flat, strict=True))
    while True:
        a, b = root[left], root[right]
        differ = a != b
        if not differ.any():
            return root
        a, b = a[differ], b[differ]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(shorter := root[root], root):
            root = shorter
