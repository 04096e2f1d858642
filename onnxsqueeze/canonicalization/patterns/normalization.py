"""LayerNormalization as written before opset 17, RMSNormalization before opset 23.

Besides the two operators that ONNX has by now, each of which normalizes over the axes from ``axis`` to the last, there
are ChannelLayerNormalization and ChannelRMSNormalization, which normalize over ``axis`` alone: the scale is shaped as
[C, 1, 1] for an image. Without the tensor's rank it cannot be told whether a positive axis is the last, so they also
stand for the others where no rank is declared. For several axes the rank is inferred.
"""

from __future__ import annotations

from onnxsqueeze.canonicalization.patterns.expression import (
    Data,
    Expression,
    Match,
    Mean,
    Number,
    OneOf,
    Operation,
    Parameter,
    Weight,
    add,
)
from onnxsqueeze.canonicalization.patterns.pattern import Fused, Pattern
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import OVER_CHANNELS


def _square(base: Expression) -> Expression:
    return OneOf((Operation("Pow", (base, Number(2.0))), Operation("Mul", (base, base))))


def _normalized(base: Expression) -> tuple[Expression, Expression, Expression]:
    """Return what was divided by its root mean square, the same times the scale, and the inverse root mean square."""
    inside = add(Parameter("epsilon"), Mean(_square(base)))
    root = OneOf((Operation("Sqrt", (inside,)), Operation("Pow", (inside, Number(0.5)))))
    inverse = OneOf(
        (
            Operation("Reciprocal", (root,)),
            Operation("Div", (Number(1.0), root)),
            Operation("Pow", (inside, Number(-0.5))),
        )
    )
    scale = Weight("scale")
    bare = OneOf((Operation("Div", (base, root)), Operation("Mul", (base, inverse))))
    scaled = OneOf(
        (
            Operation("Mul", (scale, bare)),
            Operation("Mul", (base, Operation("Mul", (scale, inverse)))),
            Operation("Mul", (inverse, Operation("Mul", (scale, base)))),
            Operation("Div", (Operation("Mul", (scale, base)), root)),
        )
    )
    return bare, scaled, inverse


def _layer_normalization() -> Expression:
    x, scale, bias = Data(), Weight("scale"), Weight("bias")
    mean = Mean(x)
    bare, scaled, inverse = _normalized(Operation("Sub", (x, mean)))
    factor = Operation("Mul", (scale, inverse))
    apart = add(Operation("Mul", (x, factor)), Operation("Sub", (bias, Operation("Mul", (mean, factor)))))
    return OneOf((add(bias, scaled), add(bias, bare), apart, scaled, bare))


def _root_mean_square_normalization() -> Expression:
    bare, scaled, _ = _normalized(Data())
    return OneOf((scaled, bare))


def _named(op: str, match: Match, scope: Scope) -> Fused | None:
    """Normalize over the last axes, or over one."""
    count = len(match.axes)
    rank = scope.rank(match.tensors["x"])
    if rank is None and count > 1:
        rank = scope.inferred_rank(match.tensors["x"])
    axes = tuple(sorted(axis - rank if axis >= 0 and rank is not None else axis for axis in match.axes))
    last = axes == tuple(range(-count, 0))
    for key in ("scale", "bias"):
        if key in match.tensors and not _fits(match, scope, key, axes):
            return None
    if last:
        return Fused(op, {"axis": axes[0]})
    return Fused(OVER_CHANNELS[op], {"axis": axes[0]}) if count == 1 else None


def _fits(match: Match, scope: Scope, key: str, axes: tuple[int, ...]) -> bool:
    """Whether a weight varies along the normalized axes only; of an axis counted from the front that cannot be told."""
    array = scope.constant(match.tensors[key])
    assert array is not None
    varying = [axis - array.ndim for axis, length in enumerate(array.shape) if length > 1]
    return set(varying) <= set(axes) if max(axes) < 0 else len(varying) == 1


PATTERNS = (
    Pattern(
        _layer_normalization(),
        ("x", "scale", "bias"),
        ("epsilon",),
        lambda match, scope: _named("LayerNormalization", match, scope),
    ),
    Pattern(
        _root_mean_square_normalization(),
        ("x", "scale"),
        ("epsilon",),
        lambda match, scope: _named("RMSNormalization", match, scope),
    ),
)
