"""What sums, products and choices do to rows of scores: what a number added to a row becomes, and what is finite."""

from __future__ import annotations

import numpy as np

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, ScoreRows
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.score_rows import all_finite_inputs, finite, never_masked, row_sums
from onnxsqueeze.rules.traits import Trait


def _factor_of_rows(node: Node, context: Context, position: int) -> bool:
    """Whether the other input is the same along each row."""
    other = context.shapes.get(node.inputs[1 - position])
    return other is not None and (not other or other[-1] == 1)


def _finite_quotient(node: Node, context: Context) -> bool:
    divisor = context.value(node.inputs[1])
    return divisor is not None and bool(np.all(divisor != 0)) and finite(context, node.inputs[0])


def _sum_reached(node: Node, context: Context) -> bool:
    """Some number of each row is finite if one summand's is, and the other summand is finite throughout."""
    last = context.shape(node.outputs[0])[-1:]
    whole = [context.shapes.get(side, ())[-1:] == last for side in node.inputs]
    return any(
        whole[place] and finite(context, node.inputs[1 - place]) and never_masked(context, side, context.rank(side) - 1)
        for place, side in enumerate(node.inputs)
    )


def _choice_reached(node: Node, context: Context) -> bool:
    condition = context.value(node.inputs[0])
    return condition is not None and bool(condition.any(axis=-1).all()) and finite(context, node.inputs[1])


def _masked_row(node: Node, context: Context, position: int) -> bool:
    """Whether what may stand instead is so low everywhere that whatever stands beside it in a row outweighs it."""
    filler = context.value(node.inputs[3 - position]) if position > 0 else None
    return filler is not None and bool((filler.astype(np.float64) <= _FILLER).all())


_FILLER = -1e9  # what no score comes near


def _guarded_total(node: Node, context: Context, axis: int) -> int | None:
    """Of a softmax with 0 instead of NaN: rows that are masked as a whole sum to 0."""
    kept = _guarded(node, context)
    softmax = context.graph.producers.get(kept or "")
    if softmax is None or row_sums(context, softmax.outputs[0], axis) != 1:
        return None
    shares = Trait.NORMALISES in context.rules[softmax.index].traits
    return int(shares and never_masked(context, softmax.inputs[0], axis))


def _guarded(node: Node, context: Context) -> str | None:
    """Return the tensor of which a node is a copy with 0 instead of NaN."""
    condition = context.graph.producers.get(node.inputs[0])
    filler, kept = context.value(node.inputs[1]), node.inputs[2]
    tests = condition is not None and Trait.TESTS_NAN in rule_for(condition).traits and condition.inputs[0] == kept
    same = context.shapes.get(kept) == context.shapes.get(node.outputs[0])
    return kept if tests and same and filler is not None and not np.any(filler) else None


def _always(node: Node, context: Context, position: int) -> bool:
    return True


ROWS = {
    "Add": ScoreRows(finite=all_finite_inputs, reached=_sum_reached, commutes=_always),
    "Sub": ScoreRows(finite=all_finite_inputs, commutes=_always),
    "Mul": ScoreRows(finite=all_finite_inputs, commutes=_factor_of_rows),
    "Div": ScoreRows(
        finite=_finite_quotient,
        commutes=lambda node, context, position: position == 0 and _factor_of_rows(node, context, position),
    ),
    "Where": ScoreRows(total=_guarded_total, reached=_choice_reached, commutes=_masked_row),
}
"""By operator; the others are not followed."""
