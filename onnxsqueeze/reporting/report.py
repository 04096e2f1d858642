"""What a run found and did, as data: one row a layer, the totals, and for all that stayed the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxsqueeze.abstract.floating import FLOATING
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.products_of_codes import saturating
from onnxsqueeze.reporting.concrete_shapes import concrete_shapes
from onnxsqueeze.reporting.layers import Layer, layers_of
from onnxsqueeze.reporting.stayed import Stayed, joined, named
from onnxsqueeze.reporting.unknown_layers import matrices_hold_zeros
from onnxsqueeze.rules.lessons import Failure
from onnxsqueeze.rules.plan import Plan

if TYPE_CHECKING:
    from onnxsqueeze.verification import VerifyReport


@dataclass(frozen=True)
class Report:
    """The outcome of `minimize` or `inspect`.

    Attributes:
        layers: in the graph's order.
        weights_before, weights_after: elements of all tensors that hold weights, each stored tensor once.
        bytes_before, bytes_after: file sizes. macs_before, macs_after: multiply-accumulates of all layers.
        nodes_before, nodes_after: nodes of the main graph.
        stayed: how many dead or constant elements of all tensors stayed for which reason (with its detail).
        nodes: by reason, the nodes that bring it about.
        why_nothing: why nothing could go, "" if something did.
        disagreements: at how many nodes channels stay that some of the tensors added there do without, where masks
            that agree would leave much less. agreed_share: the part of the layers' weights that those would leave.
        saturating: the layers of codes whose sums processors without VNNI may cut off, by name.
        warnings: what a user should know, one line each; those of ``failures`` among them.
        failures: errors that nobody foresaw in the rules of nodes.
        sizes: the sizes that were assumed for dynamic dimensions other than the batch when MACs were counted.
        verification: what the comparison found, None if it was skipped.
        seconds: duration of each phase.
    """

    layers: tuple[Layer, ...]
    weights_before: int
    weights_after: int
    bytes_before: int
    bytes_after: int
    macs_before: int
    macs_after: int
    nodes_before: int
    nodes_after: int
    stayed: Mapping[str, int]
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    why_nothing: str = ""
    disagreements: int = 0
    agreed_share: float | None = None
    saturating: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    verification: VerifyReport | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times fewer weight elements are left."""
        return self.weights_before / self.weights_after if self.weights_after else float("inf")

    def with_failures(self, failures: Sequence[Failure]) -> Report:
        """Return this with more failures, which are warned of."""
        warnings = (*self.warnings, *map(str, failures))
        return replace(self, failures=(*self.failures, *failures), warnings=warnings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        data = {name: value for name, value in vars(self).items() if name != "verification"}
        data["layers"] = [asdict(layer) for layer in self.layers]
        data["failures"] = [asdict(failure) for failure in self.failures]
        data["verification"] = self.verification.to_dict() if self.verification else None
        data["ratio"] = self.ratio if self.weights_after else None
        return data


def make_report(
    analysis: Analysis,
    plan: Plan,
    result: Model,
    file_bytes: int,
    dims: Mapping[str, int],
    given: tuple[Analysis, Plan] | None = None,
    bodies: Sequence[tuple[str, Analysis, Plan]] = (),
    later: Sequence[tuple[Analysis, Plan]] = (),
) -> Report:
    """Compare the model that was given with the one that came out.

    Args:
        analysis, plan: what was decided. result, file_bytes: what came of it.
        dims: sizes to count MACs for.
        given: the same of the model as it came, where the analysis may be of one whose layers are whole again.
        bodies: the same of the subgraphs that were minimized by themselves, behind the nodes that they lie in.
        later: the same of further rounds of the search, each over what came of the one before.
    """
    failures: list[Failure] = []
    shapes, sizes = concrete_shapes(analysis, dims, failures)
    layers = tuple(layers_of(analysis, plan, shapes, failures, inside=not bodies))
    first = analysis if given is None else given[0]
    if given is not None and first.graph is not analysis.graph:
        layers = _as_given(
            layers, layers_of(*given, concrete_shapes(first, dims, failures)[0], failures, inside=not bodies)
        )
    for following, chosen in later:
        shapes_then = concrete_shapes(following, dims, failures)[0]
        layers = _further(layers, layers_of(following, chosen, shapes_then, failures, inside=not bodies))
    for path, inner, decided in bodies:
        own = layers_of(inner, decided, concrete_shapes(inner, dims, failures)[0], failures, inside=False)
        layers += tuple(replace(layer, name=f"{path}/{layer.name}") for layer in own)
    original = first.graph.file
    stayed = _all_stayed([(analysis, plan), *((inner, decided) for _, inner, decided in bodies)])
    nothing = plan.empty and all(decided.empty for _, _, decided in bodies)
    before, after = weight_elements(original), weight_elements(result)
    cut_off = saturating(result)
    return Report(
        layers=layers,
        weights_before=before,
        weights_after=after,
        bytes_before=original.file_bytes,
        bytes_after=file_bytes,
        macs_before=sum(layer.macs_before for layer in layers),
        macs_after=sum(layer.macs_after for layer in layers),
        nodes_before=len(original.skeleton.graph.node) + len(original.constants),
        nodes_after=len(result.skeleton.graph.node),
        stayed=stayed.counts(),
        nodes=stayed.nodes(),
        why_nothing=_why_nothing(first, layers, stayed) if nothing else "",
        saturating=cut_off,
        warnings=(*original.notes, *_warnings(analysis, cut_off)),
        sizes=sizes,
    ).with_failures(tuple(dict.fromkeys(failures)))


def _further(layers: Sequence[Layer], later: Sequence[Layer]) -> tuple[Layer, ...]:
    """Say of layers what became of them in a further round, which knows them by what they make."""
    found = {layer.output: layer for layer in later}
    return tuple(
        layer
        if (then := found.get(layer.output)) is None
        else replace(
            layer,
            shape_after=then.shape_after,
            weights_after=then.weights_after,
            macs_after=then.macs_after,
            bytes_after=then.bytes_after,
            removed=layer.removed + then.removed,
        )
        for layer in layers
    )


def _as_given(layers: Sequence[Layer], given: Sequence[Layer]) -> tuple[Layer, ...]:
    """Say of layers that are whole again what they were in the file, where they stand in the same order."""
    if len(layers) != len(given):  # a row was left out of one of them
        return tuple(layers)
    names = ("name", "shape_before", "weights_before", "macs_before", "sparsity")
    return tuple(
        replace(layer, **{name: getattr(before, name) for name in names})
        for layer, before in zip(layers, given, strict=True)
    )


def _all_stayed(graphs: Sequence[tuple[Analysis, Plan]]) -> Stayed:
    found = Stayed()
    for analysis, plan in graphs:
        stayed_reasons(analysis, plan, found)
    return found


def stayed_reasons(analysis: Analysis, plan: Plan, found: Stayed | None = None) -> Stayed:
    """Count, over all activations, the constant elements that stayed and what could not be analysed, by reason."""
    found = found or Stayed()
    for name in analysis.context.elements.ids:
        if analysis.context.dtypes.get(name) not in FLOATING:
            continue
        shape = analysis.context.ids(name).shape
        kept = np.broadcast_to(plan.masks.get(name, np.full(shape, True)), shape)
        entries = np.broadcast_to(plan.reasons[name], shape)
        constant = analysis.constant(name)
        for (why, is_constant), count in Counter(zip(entries[kept], constant[kept].tolist(), strict=True)).items():
            if is_constant or (why is not None and why.reason not in _ORDINARY):
                found.add(why, count, analysis.maker(name))
    return found


_ORDINARY = (
    Reason.NEEDED,
    Reason.GRAPH_INPUT,
    Reason.GRAPH_OUTPUT,
    Reason.CAPTURED,
    Reason.HANDED_OUT,
    Reason.CARRIED,
)


def _why_nothing(analysis: Analysis, layers: tuple[Layer, ...], stayed: Stayed) -> str:
    if not layers:
        return "no layer with constant weights was found"
    found = joined([(layer.stayed, layer.nodes) for layer in layers])
    if not found:
        nodes = stayed.nodes()
        found = [(reason, 0, count, named(nodes[reason])) for reason, count in stayed.counts().items()]
    if found:
        reasons = (f"{reason} ({count}{f', at {at}' if at else ''})" for reason, _, count, at in found[:3])
        return "every channel stays: " + "; ".join(reasons)
    if not any(layer.sparsity for layer in layers) and not matrices_hold_zeros(analysis):
        return "every channel is needed: no weight is zero"
    return "every channel is needed: the zeros are scattered, so that no channel is dead or constant"


def _warnings(analysis: Analysis, cut_off: tuple[str, ...]) -> list[str]:
    refusals = analysis.context.refusals.values()
    names = sorted({refusal.detail for refusal in refusals if refusal.reason is Reason.NOT_FINITE})
    found = [f"weights of {name} hold NaN or Inf; the layer is left as it is" for name in names]
    count = len(analysis.graph.overridable)
    if count:
        which = "an initializer is a graph input" if count == 1 else f"{count} initializers are graph inputs"
        found.append(
            f"{which} too, which callers may override: what they touch stays; --fix-inputs makes them constant"
        )
    if cut_off:
        layers = "a layer multiplies" if len(cut_off) == 1 else f"{len(cut_off)} layers multiply"
        found.append(
            f"{layers} codes of which sums of two products can exceed 16 bits ({named(cut_off)}): on x86 processors "
            "without VNNI onnxruntime cuts them off, in the original as well; quantize with reduce_range for those"
        )
    return found
