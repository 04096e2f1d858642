"""LayerNorm over fewer channels with the mean and the variance of all: the trainable form of CompensatedLayerNorm.

Of N channels P are present; the N - P removed ones hold constants of mean m and sum of squared deviations d. With
a = P / N, and mu and z what a stock LayerNorm over the P channels finds and returns, its epsilon being
``(N epsilon + d) / P``, pooling both parts gives (see ``onnxsqueeze.norms.layer_norm``, where the formula is derived)

    z(m) = (m - mu) / deviation         r = 1 / sqrt(a (1 + (1 - a) z(m)^2))         y = g r (z - (1 - a) z(m)) + b

The derivative with respect to the input has the sums of a stock LayerNorm's, divided by N instead of by P. So it is
``a`` times what torch's own kernel returns for the pooled mean and deviation, plus ``1 - a`` times its first term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.compensated_function import DOMAIN, NAME

__all__ = ["CompensatedLayerNorm", "compensated_layer_norm"]

_VERSION = 1
_HALF = (torch.float16, torch.bfloat16)


def compensated_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    width: int,
    epsilon: float,
    removed_sum: float,
    squared_deviations: float,
) -> Tensor:
    """Normalise the last axis of x with the mean and variance that it has together with the removed constants.

    Args:
        x: float tensor [..., P]. float16 and bfloat16 are computed in float32.
        weight, bias: float tensors [P].
        width: N, how many channels there were.
        epsilon: what is added to the variance.
        removed_sum: the sum of the N - P removed constants.
        squared_deviations: the sum of their squared deviations from their mean.

    Returns:
        A tensor like x. It can be differentiated once.
    """
    attributes = (width, epsilon, removed_sum, squared_deviations)
    if torch.onnx.is_in_onnx_export():
        return _exported(x, weight, bias, *attributes)
    if x.dtype in _HALF:
        narrow = compensated_layer_norm(x.float(), weight.float(), bias.float(), *attributes)
        return narrow.to(x.dtype)
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if x.shape[-1] == width:
        return F.layer_norm(x, (width,), weight, bias, epsilon)
    out: Tensor = _Compensated.apply(x, weight, bias, *attributes)[0]  # type: ignore[no-untyped-call]
    return out


class _Compensated(torch.autograd.Function):
    """The operator on float32 or float64; it returns the pooled mean and inverse deviation as well."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, width: int, epsilon: float, total: float, deviations: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        present = x.shape[-1]
        share, rest = present / width, 1 - present / width
        removed_mean = total / (width - present)
        inside = (width * epsilon + deviations) / present
        scaled, mean, inverse = torch.native_layer_norm(x, (present,), weight, None, inside)
        gap = mean - removed_mean
        at_removed = gap * inverse  # -z(m)
        ratio = torch.rsqrt(share + share * rest * at_removed * at_removed)
        out = torch.addcmul(bias, scaled, ratio)
        out = torch.addcmul(out, rest * at_removed * ratio, weight)
        return out, mean - rest * gap, ratio * inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, _, width, *_ = inputs
        _, mean, inverse = output
        ctx.mark_non_differentiable(mean, inverse)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.share = x.shape[-1] / width

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        stock, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
            gradient.contiguous(), x, (x.shape[-1],), mean, inverse, weight, weight, [True, True, True]
        )
        of_x = torch.addcmul(ctx.share * stock, gradient * weight, inverse, value=1 - ctx.share)
        return of_x, of_weight, of_bias, None, None, None, None


def _exported(x: Tensor, weight: Tensor, bias: Tensor, width: int, epsilon: float, *removed: float) -> Tensor:
    """Leave one node of the operator in what torch's exporters write."""
    if not torch.compiler.is_exporting():
        out: Tensor = _Older.apply(x, weight, bias, width, epsilon, *removed)  # type: ignore[no-untyped-call]
        return out
    total, deviations = removed
    attributes: dict[str, Any] = {"width": width, "epsilon": epsilon, "sum": total, "squared_deviations": deviations}
    name = f"{DOMAIN}::{NAME}"
    return torch.onnx.ops.symbolic(name, (x, weight, bias), attributes, dtype=x.dtype, shape=x.shape, version=_VERSION)


class _Older(torch.autograd.Function):
    """The operator as the exporter that traces with torch.jit wants it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *_: Any) -> Tensor:
        return x.clone()  # only its type and shape are looked at

    @staticmethod
    def symbolic(
        graph: Any, x: Any, weight: Any, bias: Any, width: int, epsilon: float, total: float, deviations: float
    ) -> Any:
        values = {"width_i": width, "epsilon_f": epsilon, "sum_f": total, "squared_deviations_f": deviations}
        return graph.op(f"{DOMAIN}::{NAME}", x, weight, bias, **values).setType(x.type())


class CompensatedLayerNorm(nn.Module):
    """LayerNorm over the last axis, which has lost constant channels, with the statistics of all of them.

    Both of torch's exporters write it as one node ``onnxsqueeze::CompensatedLayerNorm``, which `onnxsqueeze.minimize`
    takes apart into standard operators.

    Args:
        channels: P, how many channels are present.
        width: N, how many there were.
        eps: what is added to the variance.
        removed_sum: the sum of the removed constants.
        removed_squared_deviations: the sum of their squared deviations from their mean.
        device, dtype: of the parameters.

    Attributes:
        weight, bias: parameters [P], ones and zeros at first.

    Raises:
        UsageError: for numbers that no removed constants can have.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        eps: float = 1e-5,
        removed_sum: float = 0.0,
        removed_squared_deviations: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(channels, width, removed_sum, removed_squared_deviations)
        self.channels, self.width, self.eps = channels, width, eps
        self.removed_sum, self.removed_squared_deviations = removed_sum, removed_squared_deviations
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., P]; see `compensated_layer_norm`."""
        removed = (self.removed_sum, self.removed_squared_deviations)
        return compensated_layer_norm(x, self.weight, self.bias, self.width, self.eps, *removed)

    def extra_repr(self) -> str:
        """Describe it, as torch's modules do."""
        removed = f"removed_sum={self.removed_sum}, removed_squared_deviations={self.removed_squared_deviations}"
        return f"{self.channels}, width={self.width}, eps={self.eps}, {removed}"

    @classmethod
    def from_layer_norm(
        cls, norm: nn.LayerNorm, kept: Tensor | Sequence[bool], constants: Tensor | Sequence[float] | float = 0.0
    ) -> CompensatedLayerNorm:
        """Make the norm that is left when some of a LayerNorm's channels leave, each of which holds a constant.

        Args:
            norm: a LayerNorm over one axis of N channels; it is not changed, and nothing is shared with it.
            kept: booleans [N], which channels stay.
            constants: what the removed channels hold: one number for all, or one for each of them in their order.

        Raises:
            UsageError: when the arguments do not fit each other.
        """
        if len(norm.normalized_shape) != 1:
            raise UsageError(f"the LayerNorm normalises {list(norm.normalized_shape)}; give one over a single axis")
        width = norm.normalized_shape[0]
        mask = torch.as_tensor(kept, device="cpu")
        if mask.dtype != torch.bool or mask.shape != (width,):
            raise UsageError(f"`kept` must be {width} booleans, one for each channel of the LayerNorm")
        values = _removed(constants, width - int(mask.sum()))
        total = math.fsum(values)
        mean = total / max(len(values), 1)
        deviations = math.fsum((values - mean) ** 2)
        made = cls(int(mask.sum()), width, norm.eps, total, deviations)
        for name in ("weight", "bias"):
            _take(getattr(norm, name), getattr(made, name), mask)
        return made.train(norm.training)


def _check(channels: int, width: int, removed_sum: float, squared_deviations: float) -> None:
    if not 0 < channels <= width:
        raise UsageError(f"{channels} of {width} channels present: give at least one, and no more than there were")
    if not (math.isfinite(removed_sum) and 0 <= squared_deviations < math.inf):
        raise UsageError("the removed constants must have a finite sum and a sum of squared deviations of at least 0")
    if channels == width and (removed_sum or squared_deviations):
        raise UsageError(f"all {width} channels are present, so that nothing can have been removed")


def _removed(constants: Tensor | Sequence[float] | float, count: int) -> npt.NDArray[np.float64]:
    values = torch.as_tensor(constants, dtype=torch.float64, device="cpu").detach().numpy()
    if values.ndim and values.shape != (count,):
        raise UsageError(f"{count} channels leave, but there are constants of shape {list(values.shape)} for them")
    return np.broadcast_to(values, (count,)).astype(np.float64)


def _take(source: nn.Parameter | None, target: nn.Parameter, mask: Tensor) -> None:
    """Fill a parameter with the kept elements of another; without one it is as if frozen at what it holds."""
    if source is None:
        target.requires_grad_(False)
        return
    target.data = source.detach()[mask.to(source.device)].clone()
    target.requires_grad_(source.requires_grad)
