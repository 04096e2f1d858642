"""The whole way of a model: load, analyse, plan, apply, verify, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.named_tensors import check_patterns
from onnxsqueeze.model.compensated_function import with_definition
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.overridable import with_fixed_inputs
from onnxsqueeze.model.saving import encoded_size, save, save_bytes, save_copy
from onnxsqueeze.model.sources import Source, given_proto, in_memory, without_file
from onnxsqueeze.model.walk import graph_nodes
from onnxsqueeze.pipeline.agreement import agreement
from onnxsqueeze.pipeline.blame import blamed_on, check_loads, check_runs, judged
from onnxsqueeze.pipeline.clock import Clock
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.pipeline.search import Outcome, Wishes
from onnxsqueeze.pipeline.with_bodies import searched_with_bodies
from onnxsqueeze.planning.policy import rounding
from onnxsqueeze.reporting.report import Report, make_report
from onnxsqueeze.rules.lessons import Failure
from onnxsqueeze.rules.plan import Plan

if TYPE_CHECKING:
    from onnxsqueeze.reporting.page.content import NetworkPart
    from onnxsqueeze.reporting.page.drawing import Drawing
    from onnxsqueeze.verification import VerifyReport

LAYERNORM_FORMS = ("stock", "function", "primitives")
Progress = Callable[[str, float | None], None]
"""Is told what is being done, and which fraction of that lies behind where it is known."""


@dataclass(frozen=True)
class Result:
    """What `minimize` returns.

    Attributes:
        minimized: the smaller model taken apart, for saving without another copy.
        plan: which elements of the given model stay, and why. Where nodes went that had tied others, a further round of
            the search may have removed more; the report counts all.
        make_report: makes the report.
        make_drawing: makes the drawing of the network for `page`.
        failures: errors that nobody foresaw in the rules of nodes, which were left as they are.
        has_data_file: whether the given model has its weights in a file beside it.
        changed: whether the model is another than the given one.
        copied: the given file, or the bytes of a model in memory, where that should be copied as it is: nothing went,
            and written anew it would be longer.
    """

    minimized: Model
    plan: Plan
    make_report: Callable[[], Report]
    make_drawing: Callable[[Report], Drawing]
    failures: tuple[Failure, ...] = ()
    has_data_file: bool = False
    changed: bool = True
    copied: Path | bytes | None = None

    @cached_property
    def report(self) -> Report:
        """Layers, totals, reasons, verification; made when it is first asked for."""
        return self.make_report()

    def page(self, title: str, command: str = "onnxsqueeze.minimize") -> str:
        """Return the report as one HTML page, in which the network is drawn; nothing is loaded from anywhere.

        Args:
            title: the model's name. command: what the page says that it was made by.

        Raises:
            UsageError: when Jinja2 is not installed (the extra ``report``).
        """
        from onnxsqueeze.reporting.page.networks import network_content
        from onnxsqueeze.reporting.page.render import render

        return render(network_content([self.page_part(title)], title, command))

    def page_part(self, name: str) -> NetworkPart:
        """Return what a page shows of this, which may be one of several networks on it."""
        from onnxsqueeze.reporting.page.content import NetworkPart

        return NetworkPart(name, self.report, self.make_drawing(self.report))

    @cached_property
    def model(self) -> ModelProto:
        """The smaller model as a ModelProto."""
        return ModelProto.FromString(self.copied) if isinstance(self.copied, bytes) else to_proto(self.minimized)

    def save(self, path: str | Path, *, external_data: str = "as-given") -> int:
        """Write the smaller model; afterwards it is there whole, or the path is as it was before.

        Args:
            path: the file, which is replaced if it exists. external_data: "yes" puts the weights into a file beside it,
                "no" does so above 2 GB only, "as-given" as the given model had them.

        Returns:
            The bytes that were written, those of a data file included.

        Raises:
            UsageError: when the path cannot be written to. SqueezeError: when the writing itself fails.
        """
        data_file = external_data == "yes" or (external_data == "as-given" and self.has_data_file)
        if isinstance(self.copied, bytes) and not data_file:
            save_bytes(self.copied, path)
            return len(self.copied)
        if isinstance(self.copied, Path) and not data_file:
            return save_copy(self.copied, path)
        return save(self.minimized, path, data_file=data_file)


def minimize(
    source: Source,
    *,
    round_to: str | int = "auto",
    verify: bool = True,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    fix_inputs: bool = False,
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
        source: a path or a model in memory, which is not changed: a ModelProto, its bytes, a file that is open, an
            onnx_ir.Model or a torch.onnx.ONNXProgram.
        round_to: keep a few more original channels so that counts are multiples of this; "auto" where onnxruntime is
            faster for it, 1 for the smallest model.
        verify: compare both models in onnxruntime; the other arguments are those of `onnxsqueeze.verify`.
        keep: names or glob patterns of tensors of which no channel may go.
        only: names or glob patterns of the tensors of which alone channels may go, and of those that have channels in
            common with them.
        fix_inputs: declare initializers that are graph inputs too to be constant, and remove them from the inputs.
            Whoever runs the model could replace them, so that they stay otherwise.
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
    clock = Clock()
    tell("loading", None)
    raw = without_file(source)
    source = in_memory(raw)
    given = load(source)
    if isinstance(raw, bytes):
        given = replace(given, file_bytes=len(raw))
    model = with_definition(with_fixed_inputs(given) if fix_inputs else given)
    incomplete = model is not given
    _check_sizes(model, dims or {}, input_shapes or {})
    clock.lap("load")
    with judged(given), given.unchanged():
        tell("analysing", None)
        stored = with_initializers(model)
        analysis = analyse(stored, keep, only=only)
        check_patterns("--keep", keep, _names(analysis))
        check_patterns("--only", only, _names(analysis))
        clock.lap("analyse")
        tell("minimizing", None)
        wishes = Wishes(round_to, keep, {"layernorm": layernorm}, only, most_bytes(given, model))
        rounds, minimized, inner = searched_with_bodies(model, stored, analysis, wishes)
        first, best = rounds[0].first, rounds[0].best
        failures = _failures(*(each.failures for each in rounds), *(body.outcome.failures for body in inner))
        if analysis.context.doubtful or any(failure.refused for failure in failures):
            check_loads(given)
        check_runs(given, [failure for each in rounds for failure in each.failures])
        clock.lap("minimize")
    found = None
    if verify and minimized is not model:
        original = model if incomplete else _to_compare(source, model)
        how = {"rtol": rtol, "atol": atol, "samples": samples, "inputs": inputs, "progress": tell}
        with blamed_on(given, first.analysis), given.unchanged():
            found = _verified(original, minimized, dims=dims, input_shapes=input_shapes, **how)
        clock.lap("verify")

    copied = _as_it_is(given, raw) if minimized is given else None

    def report() -> Report:
        size = encoded_size(minimized) if copied is None else given.file_bytes
        bodies = [(body.path, body.outcome.analysis, body.outcome.plan) for body in inner]
        later = [(each.best.analysis, each.best.plan) for each in rounds[1:]]
        with judged(given):  # it looks at constants that nothing else has looked at
            made = make_report(
                best.analysis, best.plan, minimized, size, dims or {}, (first.analysis, first.plan), bodies, later
            )
            made = _with_advice(made, best, wishes)
        return replace(made.with_failures(failures), verification=found, seconds=clock.laps)

    def drawn(made: Report) -> Drawing:
        from onnxsqueeze.reporting.page.drawing import drawing

        return drawing(best.analysis, best.plan, made.layers)

    return Result(minimized, best.plan, report, drawn, failures, given.has_data_file, minimized is not given, copied)


def inspect(
    source: Source,
    *,
    round_to: str | int = "auto",
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    fix_inputs: bool = False,
    dims: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Say what a mask is worth, layer by layer, and why the rest stays; nothing is written.

    Args:
        source: a path or a model in memory, which is not changed.
        round_to, keep, only, fix_inputs: see `minimize`.
        dims: sizes of dynamic dimensions by name, for counting multiply-accumulates.
        progress: is told how far the work is.

    Raises:
        InvalidModelError: when the model cannot be read or is not valid.
        UsageError: for an argument that cannot be followed.
    """
    how: dict[str, Any] = {"round_to": round_to, "keep": keep, "only": only, "fix_inputs": fix_inputs}
    return minimize(source, dims=dims, progress=progress, verify=False, **how).report


def most_bytes(given: Model, model: Model) -> int | None:
    """Return how many bytes an outcome may take: as many as what was given, or as that with what was added to it."""
    return given.file_bytes if model is given else max(given.file_bytes, encoded_size(model))


def _as_it_is(given: Model, source: Source) -> Path | bytes | None:
    """Return what was given if it would be longer written anew: others encode some things shorter, as varints."""
    if given.has_data_file or given.notes or encoded_size(given) <= given.file_bytes:
        return None
    if given.path is not None:
        return given.path
    return source if isinstance(source, bytes) else given_proto(source).SerializeToString()


def _check_sizes(model: Model, dims: Mapping[str, int], input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse names that the model does not have before any work is done."""
    if dims or input_shapes:
        from onnxsqueeze.verification.dimension_sizes import SizePlan

        inputs = [value for value in model.skeleton.graph.input if value.name not in model.initializers]
        SizePlan.of(inputs, dims, input_shapes)


def _names(analysis: Analysis) -> Iterator[str]:
    """Yield the names of all tensors, those inside of subgraphs included."""
    yield from analysis.context.shapes
    for node in graph_nodes(analysis.graph.proto):
        yield from node.output


def _with_advice(report: Report, outcome: Outcome, wishes: Wishes) -> Report:
    """Add what masks that agree would leave, if they do not and it is much less."""
    policy = rounding(outcome.analysis, wishes.round_to)
    found = agreement(outcome.analysis, outcome.plan, policy, report.layers)
    return report if found is None else replace(report, disagreements=found.sums, agreed_share=found.share)


def _failures(*found: Sequence[Failure]) -> tuple[Failure, ...]:
    """Return what all searches came upon, each once; nodes have other numbers in another graph."""
    return tuple({str(failure): failure for failures in found for failure in failures}.values())


def _to_compare(source: Source, model: Model) -> Source | Model:
    """Return the form of the original that verification is given: a path where it is read in another process."""
    from onnxsqueeze.processes.apart import apart_wanted

    return source if isinstance(source, ModelProto) or apart_wanted() else model


def _verified(original: Model | Source, minimized: Model, **options: Any) -> VerifyReport:
    from onnxsqueeze.verification import verify
    from onnxsqueeze.verification.report import VerificationError

    try:
        found = verify(original, minimized, **options)
    except UsageError as error:
        raise UsageError(f"{error}{_without(str(error))}") from None
    if not found.passed:
        raise VerificationError(f"verification failed: {found.reason}{_without(found.reason)}", found)
    return found


def _without(reason: str) -> str:
    """Say how to do without a verification that is not possible."""
    return "; use --no-verify to do without" if reason.startswith("cannot verify") else ""
