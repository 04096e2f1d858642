r"""LayerNormalization over a narrowed axis, exact over the original width: the CompensatedLayerNorm.

Of N channels P are present, the N - P removed ones hold constants c_j of mean m and variance v. With a = P / N and z(c)
what a stock LayerNormalization over the P channels makes of a channel of value c, its epsilon being
``(N epsilon + (N - P) v) / P``, pooling the means and variances of both parts gives exactly

    r   = 1 / sqrt(a (1 + (1 - a) z(m)^2))                 one number per row
    y_i = g_i r (z_i    - (1 - a) z(m)) + b_i              a present channel
    y_j = g_j r (z(c_j) - (1 - a) z(m)) + b_j              a removed one, as its readers saw it

z is linear in c, so two representatives (present channels that hold constants c_0 and c_1) give it everywhere; one is
enough where all removed constants equal it, since then z(c_j) = z(m). Nothing here cancels: all terms under the root
are positive. (Generalises section 5 of the paper's compensation, arXiv 2606.14346, to constants of any value.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Floats
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.normalization.channels import axis_of, placed
from onnxsqueeze.operators.normalization.removed import Removed
from onnxsqueeze.operators.normalization.writing import compute_mean
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.reconstruction import Reconstruction
from onnxsqueeze.rules.rewriter import Rewriter

FUSED_SINCE = 17  # the opset that brought LayerNormalization


@dataclass(frozen=True)
class Narrowed:
    """A LayerNorm to be written over what is left of its channels.

    Attributes:
        node, context, rewriter: where it stands. data: the name of its input.
        removed: what has left. representatives: the channels that stand for it [1 or 2]; None if there are none.
        scale, bias: float64 [N] of the original. epsilon: of the original.
        deferred: whether all readers can compute with a reconstruction, so that the output need not hold what it did.
    """

    node: Node
    context: Context
    rewriter: Rewriter
    data: str
    removed: Removed
    representatives: npt.NDArray[np.int64] | None
    scale: Floats
    bias: Floats
    epsilon: float
    deferred: bool

    @property
    def axis(self) -> int:
        """The normalised axis, counted from the front."""
        return axis_of(self.node, self.context)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of input and output."""
        return self.rewriter.dtype(self.data)

    def present(self, vector: Floats) -> npt.NDArray[Any]:
        """Return the entries of the channels that are left, in the data's type."""
        return vector[self.removed.kept].astype(self.dtype)

    def number(self, value: float) -> npt.NDArray[Any]:
        """Return a scalar in the data's type."""
        return np.asarray(value, dtype=self.dtype)

    def along(self) -> Floats:
        """Return how far each constant lies from the first representative to the second, 0 with only one; [N]."""
        constants, chosen = np.nan_to_num(self.removed.constants), self.representatives
        assert chosen is not None
        if len(chosen) == 1:
            return np.zeros(len(constants))
        first, second = constants[chosen]
        return np.asarray((constants - first) / (second - first))

    def mean_weights(self) -> Floats:
        """Return the weights of the representatives' values that add up to z(m)."""
        chosen = self.representatives
        assert chosen is not None
        if len(chosen) == 1:
            return np.ones(1)
        first, second = self.removed.constants[chosen]
        part = (self.removed.mean - first) / (second - first)
        return np.array([1 - part, part])


def compute_stock(norm: Narrowed) -> None:
    """Write the stock operator over the present channels, and a factor per row.

    Mixed: the output holds ``g r z``, and everything else is left to the readers. Else it holds what it always did.
    """
    rewriter, node, share = norm.rewriter, norm.node, norm.removed.share
    chosen = norm.representatives
    assert chosen is not None
    single = len(chosen) == 1
    strength = float(np.sqrt(share * (1 - share)))
    scale = norm.scale.copy() if norm.deferred else np.ones(len(norm.scale))
    scale[chosen] = strength if single and norm.deferred else 1.0
    z = _layer_norm(norm, norm.present(scale))
    weights = norm.mean_weights()
    pair = rewriter.compute(node, "Gather", [z, (np.cumsum(norm.removed.kept) - 1)[chosen]], axis=norm.axis)
    factor = strength if norm.deferred else 1.0
    combined = (weights * factor)[:, None].astype(norm.dtype)
    at_mean = pair if single else rewriter.compute(node, "MatMul", [pair, combined])
    square = rewriter.compute(node, "Mul", [at_mean, at_mean])
    if not norm.deferred:
        square = rewriter.compute(node, "Mul", [square, norm.number(strength**2)])
    root = rewriter.compute(node, "Sqrt", [rewriter.compute(node, "Add", [square, norm.number(share)])])
    if norm.deferred:
        rewriter.replace(node, "Div", [z, root])
        rewriter.defer_reconstruction(
            node.outputs[0], _stock_reconstruction(norm, weights, strength if single else 1.0)
        )
        return
    drift = rewriter.compute(node, "Mul", [at_mean, norm.number(1 - share)])
    centred = rewriter.compute(node, "Sub", [z, drift])
    unit = rewriter.compute(node, "Div", [centred, root])
    scaled = rewriter.compute(node, "Mul", [unit, norm.present(norm.scale)])
    rewriter.replace(node, "Add", [scaled, norm.present(norm.bias)])


def _stock_reconstruction(norm: Narrowed, weights: Floats, strength: float) -> Reconstruction:
    """Express every channel by ``g r z`` of the present ones and ``strength r z`` of the representatives."""
    chosen, share = norm.representatives, norm.removed.share
    assert chosen is not None
    own = norm.removed.kept.copy()
    own[chosen] = False
    along = norm.along()
    own_part = np.stack([1 - along, along], axis=1)[:, : len(chosen)]
    shares = (np.where(own[:, None], 0.0, own_part) - (1 - share) * weights) * norm.scale[:, None] / strength
    return Reconstruction(norm.axis, chosen, norm.bias, own, shares)


def _layer_norm(norm: Narrowed, scale: npt.NDArray[Any]) -> Any:
    """Normalise the present channels, the variance of the removed ones made up for by the epsilon."""
    removed = norm.removed
    epsilon = (removed.width * norm.epsilon + removed.count * removed.variance) / removed.present
    rewriter, node = norm.rewriter, norm.node
    if rewriter.opset >= FUSED_SINCE:
        return rewriter.compute(node, "LayerNormalization", [norm.data, scale], axis=-1, epsilon=epsilon)
    mean = compute_mean(rewriter, node, norm.data, -1)
    centred = rewriter.compute(node, "Sub", [norm.data, mean])
    squares = rewriter.compute(node, "Pow", [centred, norm.number(2.0)])
    variance = rewriter.compute(node, "Add", [compute_mean(rewriter, node, squares, -1), norm.number(epsilon)])
    unit = rewriter.compute(node, "Div", [centred, rewriter.compute(node, "Sqrt", [variance])])
    scaled = rewriter.compute(node, "Mul", [unit, scale])
    # onnxruntime fuses these nine nodes, the sum of nothing included, to one
    return rewriter.compute(node, "Add", [scaled, np.zeros_like(scale)])


def exact_parameters(norm: Narrowed) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return scale and bias for an operator whose output holds what it did; deferred, but for representatives."""
    scale, bias = norm.scale.copy(), norm.bias.copy()
    if norm.deferred and norm.representatives is not None:
        scale[norm.representatives], bias[norm.representatives] = 1.0, 0.0
    return norm.present(scale), norm.present(bias)


def defer_exact(norm: Narrowed) -> None:
    """Let the readers compute the removed channels from representatives that hold the mere normalised value."""
    chosen = norm.representatives
    if not norm.deferred or chosen is None:
        return
    own = norm.removed.kept.copy()
    own[chosen] = False
    along = norm.along()
    shares = np.stack([1 - along, along], axis=1)[:, : len(chosen)] * norm.scale[:, None]
    reconstruction = Reconstruction(
        norm.axis, chosen, np.where(own, 0.0, norm.bias), own, np.where(own[:, None], 0.0, shares)
    )
    norm.rewriter.defer_reconstruction(norm.node.outputs[0], reconstruction)


def compute_primitives(norm: Narrowed) -> None:
    """Write out the definition, and let readers compute the removed channels from representatives."""
    scale, bias = (placed(norm.node, norm.context, each) for each in exact_parameters(norm))
    compute_definition(norm, (norm.axis,), scale, bias)
    defer_exact(norm)


def compute_definition(
    norm: Narrowed, axes: Sequence[int], scale: npt.NDArray[Any], bias: npt.NDArray[Any] | None
) -> None:
    """Write out mean and variance over the original width, in two passes, in float32 at least.

    Args:
        norm: what is left. axes: over which it is taken, the one of the channels among them.
        scale, bias: of the channels that are left, in the data's type; they broadcast against it.
    """
    rewriter, node, removed = norm.rewriter, norm.node, norm.removed
    half = norm.dtype.itemsize < 4
    kind = np.dtype(np.float32) if half else norm.dtype
    data: Any = norm.data
    if half:
        data = rewriter.compute(node, "Cast", [data], to=1)

    def number(value: float) -> npt.NDArray[Any]:
        return np.asarray(value, dtype=kind)

    present = rewriter.compute(node, "Mul", [compute_mean(rewriter, node, data, *axes), number(removed.share)])
    mean = rewriter.compute(node, "Add", [present, number(removed.total / removed.width)])
    centred = rewriter.compute(node, "Sub", [data, mean])
    squares = compute_mean(rewriter, node, rewriter.compute(node, "Mul", [centred, centred]), *axes)
    inside = rewriter.compute(node, "Mul", [squares, number(removed.share)])
    gap = rewriter.compute(node, "Sub", [mean, number(removed.mean)])
    between = rewriter.compute(node, "Mul", [gap, gap])
    outside = rewriter.compute(node, "Mul", [between, number(1 - removed.share)])
    rest = number(norm.epsilon + (1 - removed.share) * removed.variance)
    variance = rewriter.compute(node, "Add", [rewriter.compute(node, "Add", [inside, outside]), rest])
    unit = rewriter.compute(node, "Div", [centred, rewriter.compute(node, "Sqrt", [variance])])
    if half:
        unit = rewriter.compute(node, "Cast", [unit], to=norm.context.dtypes[norm.data])
    if bias is None:
        rewriter.replace(node, "Mul", [unit, scale])
    else:
        rewriter.replace(node, "Add", [rewriter.compute(node, "Mul", [unit, scale]), bias])
