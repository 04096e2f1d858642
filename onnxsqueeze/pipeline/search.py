"""The search for the smallest outcome: plan, apply, learn from what failed, begin again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

from onnxsqueeze.analysis.forward import Analysis, Pin
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.weight_source import stored
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.model import Model
from onnxsqueeze.planning.fixpoint import make_plan, newly_settled
from onnxsqueeze.planning.narrowing import Choose
from onnxsqueeze.planning.policy import narrowing, rounding
from onnxsqueeze.rewriting.apply import apply
from onnxsqueeze.rules.lessons import FoldOverflow, NotSpanned, NotZero, StillRead
from onnxsqueeze.rules.plan import Plan, Used

Outcome = tuple[Analysis, Plan, Model]


_SMALL_SHARE = 64  # copies of less than this part of a model do not matter


def _smaller(analysis: Analysis, round_to: str | int, keep: Sequence[str], options: Mapping[str, str]) -> Outcome:
    """Plan and apply; what turns out not to pay or not to fit is pinned, and the plan made anew."""
    pins: list[Pin] = []
    used: dict[int, Used] = {}
    found: Outcome | None = None
    model = analysis.graph.model
    choose: Choose | None = narrowing(round_to)
    while True:
        plan = make_plan(analysis, rounding(analysis, round_to), pins, choose, used)
        asked = analysis.asked(options)
        if plan.empty and not asked:
            return _fewest(found, (analysis, plan, model))
        known = analysis.context.known
        if settled := newly_settled(analysis, plan):
            analysis = Analysis(analysis.graph, keep, replace(known, settled=known.settled | settled))
            continue
        try:
            minimized, copied = apply(analysis, plan, options)
        except FoldOverflow as overflow:
            pins.append(Pin(overflow.tensor, Reason.OVERFLOW, channel=overflow.channel))
            continue
        except StillRead as error:
            pins.append(Pin(error.tensor, Reason.NOT_EMPTY))
            continue
        except NotZero as error:
            used.update(error.used)
            continue
        except NotSpanned as error:
            known = replace(known, widened=known.widened | {error.tensor})
            analysis = Analysis(analysis.graph, keep, known)
            continue
        if plan.empty or weight_elements(minimized) <= weight_elements(model):
            found = _fewest(found, (analysis, plan, minimized))
            if not _worth_tying(model, minimized, copied - known.tied):
                return found
        if copied - known.tied:  # without the copies it may be even smaller
            analysis = Analysis(analysis.graph, keep, replace(known, tied=known.tied | copied))
        elif found is not None:
            return found
        elif choose is not None:
            choose = None
        else:
            around = _around(analysis, copied) - {pin.tensor for pin in pins}
            pins.extend(Pin(name, Reason.LARGER) for name in around or analysis.context.elements.ids)


def _worth_tying(model: Model, minimized: Model, copied: Collection[str]) -> bool:
    """Whether what the copies hold is enough of a model to look for a plan without them."""
    held = sum(prod(model.initializers[name].shape) for name in copied)
    return held * _SMALL_SHARE > weight_elements(minimized)


def _fewest(one: Outcome | None, other: Outcome) -> Outcome:
    """Return the outcome that stores fewer weights, the later one if they store as many."""
    return one if one is not None and weight_elements(one[2]) < weight_elements(other[2]) else other


def _better(first: Outcome, whole: Outcome) -> Outcome:
    """Return the outcome that stores fewer weights; of equal ones that with whole layers, unless nothing else went."""
    untouched = first[2] is first[0].graph.model
    return _fewest(whole, first) if untouched else _fewest(first, whole)


def _around(analysis: Analysis, weights: Collection[str]) -> set[str]:
    """Return the activations that are read or made by the users of some stored weights."""
    context, found = analysis.context, set()
    for node in analysis.graph.nodes:
        sources = [stored(analysis.graph, name, context.rank(name)) for name in node.inputs if name in context.shapes]
        if any(source is not None and source.name in weights for source in sources):
            found |= {name for name in (*node.inputs, *node.outputs) if name and context.is_activation(name)}
    return found
