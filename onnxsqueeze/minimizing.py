"""The whole way of a model: load, analyse, plan, apply, verify, report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from onnxsqueeze.analysis import Analysis, Pin
from onnxsqueeze.apply import apply
from onnxsqueeze.errors import UsageError, VerificationError
from onnxsqueeze.graph import Graph
from onnxsqueeze.linear import Used
from onnxsqueeze.linear.whole import with_whole_layers
from onnxsqueeze.loading import Model, load, to_proto
from onnxsqueeze.measure import weight_elements
from onnxsqueeze.normalise import normalised
from onnxsqueeze.norms.function import with_definition
from onnxsqueeze.plan import Choose, Plan, make_plan, newly_settled
from onnxsqueeze.policy import narrowing, rounding
from onnxsqueeze.reason import Reason
from onnxsqueeze.report import Report, make_report
from onnxsqueeze.rule import FoldOverflow, NotSpanned, NotZero, StillRead
from onnxsqueeze.saving import encoded_size
from onnxsqueeze.stored import stored

if TYPE_CHECKING:
    from onnxsqueeze.verification import VerifyReport

Source = str | os.PathLike[str] | ModelProto
Outcome = tuple[Analysis, Plan, Model]
_SMALL_SHARE = 64  # copies of less than this part of a model do not matter
LAYERNORM_FORMS = ("stock", "function", "primitives")
Progress = Callable[[str, float | None], None]
"""Is told what is being done, and which fraction of that lies behind where it is known."""


@dataclass(frozen=True)
class Result:
    """What `minimize` returns.

    Attributes:
        minimized: the smaller model taken apart, for saving without another copy.
        plan: which elements stay, and why.
        make_report: makes the report.
    """

    minimized: Model
    plan: Plan
    make_report: Callable[[], Report]

    @cached_property
    def report(self) -> Report:
        """Layers, totals, reasons, verification; made when it is first asked for."""
        return self.make_report()

    @cached_property
    def model(self) -> ModelProto:
        """The smaller model as a ModelProto."""
        return to_proto(self.minimized)


def minimize(
    source: Source,
    *,
    round_to: str | int = "auto",
    verify: bool = True,
    keep: Sequence[str] = (),
    layernorm: str = "stock",
    rtol: float | None = None,
    atol: float | None = None,
    samples: int = 2,
    inputs: Any = None,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Rewrite a masked model exactly into a smaller dense one: the same function up to rounding.

    Args:
        source: a path or a model in memory, which is not changed.
        round_to: keep a few more original channels so that counts are multiples of this; "auto" where onnxruntime is
            faster for it, 1 for the smallest model.
        verify: compare both models in onnxruntime; the other arguments are those of `onnxsqueeze.verify`.
        keep: names or glob patterns of tensors of which no channel may go.
        layernorm: how a LayerNormalization over fewer channels is written: "stock" as the standard operator and a
            factor per row, which is the fastest; "function" as a model-local function CompensatedLayerNorm, which a
            later run recognises; "primitives" as its definition.
        rtol, atol, samples, inputs, dims, input_shapes: see `onnxsqueeze.verify`.
        progress: is told how far the work is.

    Raises:
        InvalidModelError: when the model cannot be read or is not valid.
        UsageError: for an argument that cannot be followed.
        VerificationError: when the result differs from the original, or could not be compared with it.
    """
    if layernorm not in LAYERNORM_FORMS:
        raise UsageError(f"--layernorm {layernorm}: give one of {', '.join(LAYERNORM_FORMS)}")
    tell = progress or (lambda phase, fraction: None)
    clock = _Clock()
    tell("loading", None)
    given = load(source)
    model = with_definition(given)
    incomplete = model is not given
    _check_sizes(model, dims or {}, input_shapes or {})
    clock.lap("load")
    tell("analysing", None)
    analysis = Analysis(Graph(normalised(model, keep)), keep)
    _check_patterns(analysis, keep)
    clock.lap("analyse")
    tell("minimizing", None)
    options = {"layernorm": layernorm}
    first = _smaller(analysis, round_to, keep, options)
    whole = _of_whole_layers(first[0], model, round_to, keep, options)
    analysis, plan, minimized = first if whole is None else _better(first, whole)
    changed = minimized is not analysis.graph.model
    if not changed:
        minimized = model
    clock.lap("minimize")
    found = None
    if verify and changed:
        original = source if isinstance(source, ModelProto) and not incomplete else model
        how = {"rtol": rtol, "atol": atol, "samples": samples, "inputs": inputs, "progress": tell}
        found = _verified(original, minimized, dims=dims, input_shapes=input_shapes, **how)
        clock.lap("verify")

    def report() -> Report:
        made = make_report(analysis, plan, minimized, encoded_size(minimized), dims or {}, first[:2])
        return replace(made, verification=found, seconds=clock.laps)

    return Result(minimized, plan, report)


def inspect(
    source: Source,
    *,
    round_to: str | int = "auto",
    keep: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Say what a mask is worth, layer by layer, and why the rest stays; nothing is written.

    Args:
        source: a path or a model in memory, which is not changed.
        round_to, keep: see `minimize`.
        dims: sizes of dynamic dimensions by name, for counting multiply-accumulates.
        progress: is told how far the work is.

    Raises:
        InvalidModelError: when the model cannot be read or is not valid.
        UsageError: for an argument that cannot be followed.
    """
    return minimize(source, round_to=round_to, keep=keep, dims=dims, progress=progress, verify=False).report


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.laps[phase] = now - self._last
        self._last = now


def _check_sizes(model: Model, dims: Mapping[str, int], input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse names that the model does not have before any work is done."""
    if dims or input_shapes:
        from onnxsqueeze.verification.sizes import SizePlan

        inputs = [value for value in model.skeleton.graph.input if value.name not in model.initializers]
        SizePlan.of(inputs, dims, input_shapes)


def _check_patterns(analysis: Analysis, keep: Sequence[str]) -> None:
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in analysis.context.shapes):
            raise UsageError(f"--keep {pattern}: no tensor of the model has such a name; see `inspect --verbose`")


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


def _of_whole_layers(
    analysis: Analysis, model: Model, round_to: str | int, keep: Sequence[str], options: Mapping[str, str]
) -> Outcome | None:
    """Plan and apply for the model whose layers have the weights for all of the tensors that are gathered around them.

    A norm behind such a Gather can lose channels then. What comes out counts only if it is smaller than what does else.
    """
    kept = {name for name in analysis.context.shapes if any(fnmatchcase(name, pattern) for pattern in keep)}
    whole = with_whole_layers(analysis, model, kept)
    return None if whole is None else _smaller(Analysis(Graph(normalised(whole, keep)), keep), round_to, keep, options)


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


def _verified(original: Model | ModelProto, minimized: Model, **options: Any) -> VerifyReport:
    from onnxsqueeze.verification import verify

    found = verify(original, minimized, **options)
    if not found.passed:
        raise VerificationError(f"verification failed: {found.reason}", found)
    return found
