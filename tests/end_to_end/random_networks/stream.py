"""Networks whose tensors are streams of tokens, [batch, tokens, channels], and the linear layers that write them.

The masks of all layers that write one stream agree, as structured pruning leaves them: channels that none of them
writes are constant from end to end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.end_to_end.random_networks.network import Array, Network, Tensor

SMALL = {np.float32: 1e-40, np.float16: 6e-8}
"""Numbers that are denormal in the network's type."""


class TokenNetwork(Network):
    """A network under construction; all streams of equal width lack the same channels."""

    def __init__(self, random: np.random.Generator, opset: int, dtype: type[np.floating[Any]]) -> None:
        super().__init__(random, opset, dtype)
        self._empty: dict[int, npt.NDArray[np.bool_]] = {}
        self._stored: dict[tuple[tuple[int, ...], bytes], Tensor] = {}
        self._matrices: dict[tuple[int, int], Array] = {}

    def empty(self, width: int) -> npt.NDArray[np.bool_]:
        """Return which channels of a stream no layer writes."""
        if width not in self._empty:
            self._empty[width] = self.random.random(width) < self.pick(0.0, 0.3, 0.6)
        return self._empty[width]

    def odd(self, values: Array) -> Array:
        """Make some numbers negative zeros, denormal or large, sometimes."""
        if self.chance(0.9):
            return values
        chosen = self.random.random(values.shape) < 0.2
        return np.where(chosen, self.pick(-0.0, SMALL[self.dtype], -SMALL[self.dtype], 20 * values), values)

    def parameters(self, width: int, share: float = 0.3) -> Tensor:
        """Store a number for each channel, some of them zero; in most cases those that no layer writes as well."""
        values = self.sparse(width, share=share)
        if self.chance(0.5):
            values = np.where(self.empty(width), 0.0, values)
        return self.constant(self.odd(values))

    def matrix(self, inputs: int, units: int) -> Array:
        """Draw a masked weight [inputs, units], or take one that was drawn before."""
        if (inputs, units) in self._matrices and self.chance(0.15):
            return self._matrices[inputs, units].copy()
        values = self.normal(inputs, units) / np.sqrt(inputs)
        kind = self.pick("units", "inputs", "elements", "none", "none")
        if kind == "elements":
            values *= self.random.random(values.shape) < 0.15
        elif kind == "units":
            values[:, self.random.random(units) < 0.4] = 0
        elif kind == "inputs":
            values[self.random.random(inputs) < 0.4] = 0
        self._matrices[inputs, units] = self.odd(values)
        return self._matrices[inputs, units].copy()

    def stored(self, matrix: Array, turned: bool = False) -> Tensor:
        """Store a matrix, or read one that is stored already; ``turned`` asks for its transpose, as other nodes do."""
        if turned and self.chance(0.7):
            return self.constant(matrix.T)
        if not turned and self.chance(0.1):
            return self.add("Transpose", self.constant(matrix.T), perm=[1, 0])
        key = (matrix.shape, matrix.tobytes())
        if key not in self._stored:
            self._stored[key] = self.constant(matrix)
        return self.add("Transpose", self._stored[key], perm=[1, 0]) if turned else self._stored[key]

    def product(self, x: Tensor, matrix: Array, bias: Array | None = None, flat: bool = True) -> Tensor:
        """Multiply the last axis with a matrix and add a bias, in one of the ways that exporters do.

        Args:
            x: what is multiplied. matrix: [inputs, units]. bias: [units].
            flat: whether all tokens may be put in one axis, behind which onnx may infer no shape.
        """
        if x.rank == 2 and self.chance(0.5):
            more = [] if bias is None else [self.constant(bias)]
            if self.chance(0.5):
                return self.add("Gemm", x, self.stored(matrix, turned=True), *more, transB=1)
            return self.add("Gemm", x, self.stored(matrix), *more)
        if flat and self.chance(0.1) and bias is not None:  # addmm on all tokens at once
            flat = self.add("Reshape", x, self.integers(-1, x.width))
            y = self.add("Gemm", flat, self.stored(matrix), self.constant(bias))
            leading = [self.extent(x, axis) for axis in range(x.rank - 1)]
            return self.add("Reshape", y, self.sizes(*leading, matrix.shape[1]))
        if self.opset >= 12 and self.chance(0.05):
            axes = "abcde"[: x.rank - 1]
            y = self.add("Einsum", x, self.stored(matrix, turned=True), equation=f"{axes}i,oi->{axes}o")
        else:
            y = self.add("MatMul", x, self.stored(matrix))
        if bias is None:
            return y
        stored = self.constant(bias)
        return self.add("Add", *self.pick((y, stored), (stored, y)))

    def linear(self, x: Tensor, units: int, bias: bool | None = None) -> Tensor:
        """Add a layer with a mask of its own."""
        added = self.chance(0.7) if bias is None else bias
        return self.product(x, self.matrix(x.width, units), self.odd(self.sparse(units)) if added else None)

    def _constants(self, width: int) -> Array:
        """Draw what stands in channels without weights."""
        drawn = self.normal(width)
        near = 3.0 + drawn * 1e-3
        return np.asarray(self.pick(np.zeros(width), np.full(width, 0.7), drawn, drawn, near, drawn**3, drawn * 20))

    def written(self, x: Tensor, width: int, first: bool = False) -> Tensor:
        """Add a layer that writes a stream; only the first may leave constants in the channels that are empty."""
        matrix, empty = self.matrix(x.width, width), self.empty(width)
        matrix[:, empty] = 0
        bias = self.normal(width)
        constants = self._constants(width) if first else np.zeros(width)
        bias = np.where(empty, constants, bias)
        return self.product(x, matrix, bias if first or self.chance(0.7) else None)
