"""Shapes at given sizes, for counting multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxsqueeze.abstract.symbolic import Shape

if TYPE_CHECKING:
    from onnxsqueeze.analysis.forward import Analysis
    from onnxsqueeze.rules.lessons import Failure


def concrete_shapes(
    analysis: Analysis, dims: Mapping[str, int], failures: list[Failure] | None = None
) -> tuple[Mapping[str, Shape], dict[str, int]]:
    """Return all shapes for one sample, and the sizes that they assume for dynamic dimensions other than the batch.

    Args:
        analysis: of the model.
        dims: sizes that the user gave, by the dimension's name.
        failures: is told of rules that fail; of what lies behind their nodes there are no shapes.

    Raises:
        RuleFailed: where a rule fails, and ``failures`` is None.
    """
    inputs = analysis.context.shapes
    later = [size for name in analysis.graph.inputs for size in inputs.get(name, ())[1:]]
    if not dims and all(isinstance(size, int) for size in later):
        return analysis.context.shapes, {}
    from onnxsqueeze.verification.dimension_sizes import Role, SizePlan

    declared = [value for value in analysis.graph.proto.input if value.name in analysis.graph.inputs]
    plan = SizePlan.of(declared, {}, {})
    free = [name for name, role in plan.roles.items() if role is not Role.BATCH]
    best: tuple[int, Mapping[str, Shape], dict[str, int]] | None = None
    for assumed in _SIZES if set(free) - set(dims) else _SIZES[:1]:
        sizes = {name: dims.get(name, assumed) for name in free}
        shapes = plan.shapes({**dict.fromkeys(plan.roles, 1), **sizes})
        found = _inferred(analysis, shapes or {}, failures)
        short = [name for name in inputs if name not in found or _too_short(found[name], inputs[name])]
        if best is None or len(short) < best[0]:
            longer = {name: _lengthened(found[name]) for name in short if name in found}
            best = len(short), {**found, **longer}, sizes
        if not short:
            break
    assert best is not None
    return best[1], best[2]


def _too_short(shape: Shape, symbolic: Shape) -> bool:
    """Whether a size that depends on assumed ones left nothing: a window that is longer than what it slides over."""
    return any(isinstance(size, int) and size < 1 for size in shape) and 0 not in symbolic


def _lengthened(shape: Shape) -> Shape:
    """Let something be left: what would run at all has at least one position."""
    return tuple(max(1, size) if isinstance(size, int) else size for size in shape)


def _inferred(analysis: Analysis, shapes: Mapping[str, Shape], failures: list[Failure] | None) -> Mapping[str, Shape]:
    from onnxsqueeze.rules.contract import Context
    from onnxsqueeze.rules.lessons import RuleFailed
    from onnxsqueeze.rules.registry import rule_for
    from onnxsqueeze.shapes.inference import ShapeInference, fold

    context = Context(analysis.graph)
    inference = ShapeInference(analysis.graph, context)
    context.shapes.update(shapes)
    for node in analysis.graph.nodes:
        rule = rule_for(node)
        try:
            inference.infer(node, rule)
            fold(node, rule, context)
        except RuleFailed as error:
            if failures is None:
                raise
            failures.append(replace(error.failure, effect="multiply-accumulates behind it are counted too low"))
    return context.shapes


# For a dynamic image side or sequence length of which nothing is said: the first that all windows fit into.
_SIZES = tuple(64 << power for power in range(11))
