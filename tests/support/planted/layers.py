"""Layers with weights, for `builders.Graphs`: each is asked for by its units and gets weights that make them so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.builders import (
    CONST,
    DEAD,
    KEPT,
    LATE,
    LIVE,
    OFF,
    REPRESENTATIVE,
    SPARE,
    ZERO,
    Both,
    Graphs,
    Tensor,
    Units,
    on,
)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class Twin(Graphs):
    """Two networks under construction, layer by layer."""

    def gemm(
        self,
        x: Tensor,
        units: Units,
        *,
        flip: bool = False,
        across: bool = False,
        alpha: float = 1.0,
        beta: float = 1.0,
        bias: bool = True,
    ) -> Tensor:
        """Add a Gemm; ``flip`` transposes its input first, ``across`` stores the weights ``[in, out]``."""
        weight, biases = self._weights(x, units, bias=bias)
        source = self.op("Transpose", x, channels=0, perm=[1, 0]) if flip else x
        matrix = self.parameter(_each(weight, lambda w: (w.T if across else w) / alpha))
        attributes: dict[str, Any] = {"transA": int(flip), "transB": int(not across), "alpha": alpha, "beta": beta}
        c = self._bias(_each(biases, lambda b: b / beta), bias)
        return self.op("Gemm", source, matrix, c, channels=1, units=units, **attributes)

    def matmul(self, x: Tensor, units: Units, *, left: bool = False, add: bool = True) -> Tensor:
        """Add a MatMul, its weight on the right (channels last) or left (last but one), and perhaps an Add."""
        weight, biases = self._weights(x, units, bias=add)
        matrix = self.parameter(_each(weight, lambda w: w if left else w.T))
        y: Tensor = self.op("MatMul", *([matrix, x] if left else [x, matrix]), units=units)
        vector = self.parameter(_each(biases, lambda b: b[:, None] if left else b))
        if add:
            return self.op("Add", vector, y) if self.opset % 2 else self.op("Add", y, vector)  # exporters write both
        if not biases.small.any():
            return y
        with self.only("small"):
            return replace(y, name=Both(y.name, self.node("Add", [y, vector])[0]))

    def conv(
        self,
        x: Tensor,
        units: Units,
        kernel: Any = 3,
        *,
        groups: int = 1,
        bias: bool = True,
        op: str = "Conv",
        padded: bool = False,
        tied: Tensor | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Add a Conv or ConvTranspose of any rank.

        Args:
            x: what it reads. units: what it makes, by group.
            kernel: its extent along each axis, or one for all. groups: how many.
            bias: whether the wide network has one.
            op: Conv or ConvTranspose.
            padded: whether zeros were padded to ``x`` before, so that a constant is none at the border.
            tied: an equal layer whose weights it shares.
            attributes: pads, strides and dilations (or one number for all axes), auto_pad, output_padding.
        """
        rank = len(x.shape) - 2
        taps = (kernel,) * rank if isinstance(kernel, int) else tuple(kernel)
        for name in ("pads", "strides", "dilations"):
            if isinstance(attributes.get(name), int):
                attributes[name] = [attributes[name]] * (rank * 2 if name == "pads" else rank)
        padded = padded or op == "ConvTranspose" or any(attributes.get("pads", ()))
        padded = padded or "SAME" in attributes.get("auto_pad", "")
        weight, biases = self._weights(x, units, taps, padded=padded, groups=groups, bias=bias)
        group = Both(groups, max(1, _count_groups(units, groups)))
        if op == "ConvTranspose":
            weight = Both(*(_swap(on(side, weight), on(side, group)) for side in ("wide", "small")))
        names = self.stored[tied.name] if tied else (self.parameter(weight), self._bias(biases, bias))
        y: Tensor = self.op(op, x, *names, units=units, group=group, **attributes)
        self.stored[y.name] = names
        return y

    def add_constant(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add a branch of the wide network that is constant; in the small one the next layer is to fold it."""
        with self.only("wide"):
            y: Tensor = self.op("Add", x, branch, units=x.kinds)
        return replace(y, name=Both(y.name, on("small", x.name)), shift=branch.fill)

    def absorb(self, layer: Tensor, constants: Floats) -> None:
        """Add constants, one for each channel, to the small network's bias of a convolution."""
        self.parameters["small"][on("small", self.stored[layer.name][1])] += constants[layer.kept].astype(np.float32)

    def depthwise(
        self, x: Tensor, kernel: Any = 3, *, multiplier: int = 1, units: Any = None, **attributes: Any
    ) -> Tensor:
        """Add a depthwise Conv; a constant channel stays one where nothing is padded."""
        late = np.where(np.isin(x.kinds, (CONST, ZERO, OFF)), LATE, x.kinds)
        units = np.repeat(late, multiplier) if units is None else units
        return self.conv(x, units, kernel, groups=len(x.kinds), **attributes)

    def batch_norm(self, x: Tensor, mute: bool = False) -> Tensor:
        """Add a BatchNormalization with betas that are not zero; ``mute`` sets the scale of dead channels to 0."""
        width = len(x.kinds)
        ranges = ((0.5, 1.5), (0.1, 0.5), (-0.3, 0.0), (0.5, 2))
        scale, beta, mean, variance = (self.random.uniform(low, high, width) for low, high in ranges)
        scale[mute & (x.kinds == DEAD)] = 0
        wide = [scale, beta, mean, variance]
        small = [scale[x.kept], beta[x.kept], (mean - x.shift)[x.kept], variance[x.kept]]
        vectors = [self.parameter(Both(*pair)) for pair in zip(wide, small, strict=True)]
        return self.op("BatchNormalization", x, *vectors)

    def _bias(self, values: Both, given: bool) -> Both:
        """Return a bias for both networks; if the wide one has none, the small one has it only where it is not zero."""
        name = self.parameter(values)
        return Both(name if given else None, name if given or values.small.any() else None)

    def _weights(
        self,
        x: Tensor,
        units: Units,
        taps: tuple[int, ...] = (),
        *,
        padded: bool = False,
        groups: int = 1,
        bias: bool = True,
    ) -> tuple[Both, Both]:
        """Draw weights ``[out, in / groups, *taps]`` and biases ``[out]`` of both networks."""
        reads, makes = len(x.kinds) // groups, len(units) // groups
        blocks = []
        for group in range(groups):
            part = x if groups == 1 else x.part(group * reads, (group + 1) * reads)
            chosen = units[group * makes : (group + 1) * makes]
            shift = np.broadcast_to(x.shift, len(x.kinds))[group * reads : (group + 1) * reads]
            weight, biases = self._draw(part, chosen, taps, bias)
            blocks.append((weight, biases, *_fold(part, chosen, weight, biases, shift, padded)))
        wide = [np.concatenate([block[i] for block in blocks]) for i in (0, 1)]
        filled = [block for block in blocks if len(block[2])] or blocks[:1]
        small = [np.concatenate([block[i] for block in filled]) for i in (2, 3)]
        return Both(wide[0], small[0]), Both(wide[1], small[1])

    def _draw(self, x: Tensor, units: Units, taps: tuple[int, ...], bias: bool) -> tuple[Floats, Floats]:
        """Draw the wide network's weights and biases of one group; what is set to zero may become -0.0.

        A live unit gets weights of both signs, and a positive bias once constants are folded, so that no ReLU or Clip
        behind it can always be off.
        """
        shape, live = (len(units), len(x.kinds), *taps), np.isin(units, (LIVE, SPARE))
        weight = self.random.uniform(0.3, 1, shape) * self.random.choice([-1, 1], shape) / np.sqrt(np.prod(shape[1:]))
        for sign, column in zip((1, -1), np.flatnonzero(x.kinds == LIVE), strict=False):
            weight[live, column] = sign * np.abs(weight[live, column])
        weight[np.ix_(live, (x.kinds != LIVE) & ~x.constant)] *= 0
        weight[np.ix_(units == LATE, ~x.constant)] *= 0
        weight[np.isin(units, (CONST, ZERO, REPRESENTATIVE))] *= 0
        weight[units == OFF] = -np.abs(weight[units == OFF])
        biases = self.random.uniform(0.1, 1, len(units))
        biases = np.where(np.isin(units, (CONST, LATE, DEAD)), biases * self.random.choice([-1, 1], len(units)), biases)
        biases[units == ZERO] *= 0
        biases[units == OFF] *= -1
        biases[live] -= _sums(weight)[np.ix_(live, x.constant)] @ x.fill[x.constant]
        return weight.astype(np.float32).astype(np.float64), (biases * bias).astype(np.float32).astype(np.float64)


def _sums(weight: Floats) -> Floats:
    """Sum over the taps."""
    return np.asarray(weight.sum(axis=tuple(range(2, weight.ndim))))


def _each(values: Both, change: Callable[[Array], Array]) -> Both:
    return Both(change(values.wide), change(values.small))


def _count_groups(units: Units, groups: int) -> int:
    return int(np.isin(units, KEPT).reshape(groups, -1).any(1).sum())


def _swap(weight: Array, groups: int) -> Array:
    """Bring ``[out, in / groups, ...]`` to the ``[in, out / groups, ...]`` of ConvTranspose."""
    blocks: Array = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    return blocks.reshape(-1, *blocks.shape[2:])


def _fold(x: Tensor, units: Units, weight: Floats, biases: Floats, shift: Array, padded: bool) -> tuple[Floats, Floats]:
    """Return the small network's weights and biases: removed constants go to the bias or to the representative."""
    kept, gone, small = np.isin(units, KEPT), x.constant & ~x.kept, weight.copy()
    sums = _sums(weight)
    if padded and weight[np.ix_(kept, gone & (x.fill != 0))].any():
        (stand_in,) = np.flatnonzero(x.constant & x.kept)
        small[:, stand_in] += np.tensordot(weight[:, gone], x.fill[gone] / x.fill[stand_in], axes=(1, 0))
    else:
        biases = biases + sums[:, gone] @ x.fill[gone]
    if shift[x.kept].any():
        assert not padded, "a shift does not fold into a zero-padded convolution"
        biases = biases + sums[:, x.kept] @ shift[x.kept]
    return small[kept][:, x.places], biases[kept]
