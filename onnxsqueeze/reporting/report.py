"""What a run found and did, as data: one row a layer, the totals, and for all that stayed the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.model import Model
from onnxsqueeze.reporting.concrete_shapes import concrete_shapes
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.weight_view import Linear

if TYPE_CHECKING:
    from onnxsqueeze.verification import VerifyReport


@dataclass(frozen=True)
class Layer:
    """One node that multiplies by a constant weight.

    Attributes:
        name, operator: the node. output: the tensor that it makes.
        shape_before, shape_after: of its weight; () if the layer vanishes.
        weights_before, weights_after: weight elements, bias included. macs_before, macs_after: multiply-accumulates for
            one sample, dynamic sizes other than the batch taken as in `Report.sizes`.
        sparsity: the share of exact zeros in the weight.
        channels: output channels; of these dead (nothing needs them), constant, and removed.
        stayed: for the dead and constant ones that stayed, and for rows and columns of zeros between channels that
            stay, how many for which reason.
    """

    name: str
    operator: str
    output: str
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    weights_before: int
    weights_after: int
    macs_before: int
    macs_after: int
    sparsity: float
    channels: int
    dead: int
    constant: int
    removed: int
    stayed: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """The outcome of `minimize` or `inspect`.

    Attributes:
        layers: in the graph's order.
        weights_before, weights_after: elements of all tensors that hold weights, each stored tensor once.
        bytes_before, bytes_after: file sizes. macs_before, macs_after: multiply-accumulates of all layers.
        nodes_before, nodes_after: nodes of the main graph.
        stayed: how many dead or constant elements of all tensors stayed for which reason (with its detail).
        why_nothing: why nothing could go, "" if something did.
        warnings: what a user should know, one line each.
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
    why_nothing: str = ""
    warnings: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    verification: VerifyReport | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times fewer weight elements are left."""
        return self.weights_before / self.weights_after if self.weights_after else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        data = {name: value for name, value in vars(self).items() if name != "verification"}
        data["layers"] = [asdict(layer) for layer in self.layers]
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
) -> Report:
    """Compare the model that was given with the one that came out.

    Args:
        analysis, plan: what was decided. result, file_bytes: what came of it.
        dims: sizes to count MACs for.
        given: the same of the model as it came, where the analysis may be of one whose layers are whole again.
    """
    shapes, sizes = concrete_shapes(analysis, dims)
    layers = tuple(_layers(analysis, plan, shapes))
    first = analysis if given is None else given[0]
    if given is not None and first.graph is not analysis.graph:
        layers = _as_given(layers, _layers(*given, concrete_shapes(first, dims)[0]))
    original = first.graph.model
    stayed = stayed_reasons(analysis, plan)
    before, after = weight_elements(original), weight_elements(result)
    return Report(
        layers=layers,
        weights_before=before,
        weights_after=after,
        bytes_before=original.file_bytes,
        bytes_after=file_bytes,
        macs_before=sum(layer.macs_before for layer in layers),
        macs_after=sum(layer.macs_after for layer in layers),
        nodes_before=first.graph.file_nodes,
        nodes_after=len(result.skeleton.graph.node),
        stayed=stayed,
        why_nothing=_why_nothing(layers, stayed) if plan.empty else "",
        warnings=tuple(_warnings(analysis)),
        sizes=sizes,
    )


def _as_given(layers: Sequence[Layer], given: Sequence[Layer]) -> tuple[Layer, ...]:
    """Say of layers that are whole again what they were in the file, where they stand in the same order."""
    names = ("name", "shape_before", "weights_before", "macs_before", "sparsity")
    return tuple(
        replace(layer, **{name: getattr(before, name) for name in names})
        for layer, before in zip(layers, given, strict=True)
    )


def _layers(analysis: Analysis, plan: Plan, shapes: Mapping[str, Shape]) -> list[Layer]:
    context = analysis.context
    found = []
    for node in analysis.graph.nodes:
        rule = analysis.rules[node.index]
        if rule.weights is not None and context.is_activation(node.outputs[0]):
            shape = [_number(size) for size in shapes.get(node.outputs[0], context.shape(node.outputs[0]))]
            found.append(_layer(analysis, plan, node, rule.weights(node, context), shape))
    return found


def _number(size: Dimension) -> int:
    return max(1, size.coefficient + size.offset) if isinstance(size, Symbolic) else size


def _layer(analysis: Analysis, plan: Plan, node: Node, linear: Linear, shape: list[int]) -> Layer:
    context, output = analysis.context, node.outputs[0]
    kept_in = linear.per_group(_kept(plan, context.rank(linear.data), linear.data, linear.data_axis), False)
    kept_out = linear.per_group(_kept(plan, context.rank(output), output, linear.output_axis), True)
    rows = kept_out.any(axis=1)
    groups, taps = int(rows.sum()), linear.matrix.shape[3]
    after = (groups, int(kept_out.sum()) // max(groups, 1), int(kept_in[rows].sum()) // max(groups, 1), taps)
    part = plan.narrowings.get(node.index)
    if part is not None:
        after = (1, int(part.rows.sum()), int(part.columns.sum()), taps)
    positions = int(np.prod(shape, dtype=np.int64)) // max(1, kept_out.size)
    dead, constant, removed, stayed = _channels(analysis, plan, node, linear)
    if node.index in plan.whole:
        reason, zeros = plan.whole[node.index]
        stayed[f"{reason.value}: rows and columns of zeros"] = zeros
    bias = int(np.asarray(context.value(linear.bias)).size) if linear.bias else 0
    left = int(np.prod(after, dtype=np.int64))
    return Layer(
        name=node.label,
        operator=node.operator,
        output=output,
        shape_before=tuple(linear.restore(linear.matrix).shape),
        shape_after=tuple(linear.restore(np.empty(after, dtype=bool)).shape) if left else (),
        weights_before=linear.matrix.size + bias,
        weights_after=left + (min(bias, int(kept_out.sum())) if bias > 1 else bias if left else 0),
        macs_before=0 if linear.lookup else positions * linear.matrix.size,
        macs_after=0 if linear.lookup else positions * left,
        sparsity=1.0 - int(np.count_nonzero(linear.matrix)) / max(1, linear.matrix.size),
        channels=kept_out.size,
        dead=dead,
        constant=constant,
        removed=removed,
        stayed=stayed,
    )


def _kept(plan: Plan, rank: int, name: str, axis: int) -> np.ndarray[Any, Any]:
    mask = plan.masks.get(name, np.full((1,) * rank, True))
    return np.asarray(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))


def _channels(analysis: Analysis, plan: Plan, node: Node, linear: Linear) -> tuple[int, int, int, dict[str, int]]:
    name = node.outputs[0]
    size = linear.groups * linear.matrix.shape[1]
    shape = analysis.context.ids(name).shape
    live = np.broadcast_to(plan.live.get(name, np.full(shape, False)), shape)
    constant = analysis.constant(name)
    kept = np.broadcast_to(plan.masks.get(name, np.full(shape, True)), shape)
    repeat = max(1, size // max(1, live.size))
    dead = ~live & ~constant & ~kept
    stayed = _count_reasons(plan.reasons[name], kept & constant)
    return int(dead.sum()) * repeat, int(constant.sum()) * repeat, int((~kept).sum()) * repeat, stayed


def _count_reasons(reasons: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for entry in np.broadcast_to(reasons, chosen.shape)[chosen]:
        counted[_words(entry)] += 1
    return dict(counted)


def _words(entry: tuple[Reason, str] | None) -> str:
    if entry is None:
        return Reason.COUPLED.value
    reason, detail = entry
    return f"{reason.value}: {detail}" if detail and reason is not Reason.NEEDED else reason.value


def stayed_reasons(analysis: Analysis, plan: Plan) -> dict[str, int]:
    """Count, over all activations, the constant elements that stayed and what could not be analysed, by reason."""
    counted: Counter[str] = Counter()
    for name in analysis.context.elements.ids:
        if analysis.context.dtypes.get(name) not in _FLOATING:
            continue
        shape = analysis.context.ids(name).shape
        kept = np.broadcast_to(plan.masks.get(name, np.full(shape, True)), shape)
        entries = np.broadcast_to(plan.reasons[name], shape)
        constant = analysis.constant(name)
        for entry, is_constant in zip(entries[kept], constant[kept], strict=True):
            if is_constant or (entry is not None and entry[0] not in _ORDINARY):
                counted[_words(entry)] += 1
    return dict(counted.most_common())


_FLOATING = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
_ORDINARY = (Reason.NEEDED, Reason.GRAPH_INPUT, Reason.GRAPH_OUTPUT)


def _why_nothing(layers: tuple[Layer, ...], stayed: Mapping[str, int]) -> str:
    if not layers:
        return "no layer with constant weights was found"
    if stayed:
        return "every channel stays: " + "; ".join(f"{reason} ({count})" for reason, count in list(stayed.items())[:3])
    zeros = max(layer.sparsity for layer in layers)
    if zeros == 0:
        return "every channel is needed: no weight is zero"
    return "every channel is needed: the zeros are scattered, so that no channel is dead or constant"


def _warnings(analysis: Analysis) -> list[str]:
    refusals = [value for key, value in analysis.context.scratch.items() if key[0] == "refusal"]
    names = sorted({refusal.detail for refusal in refusals if refusal.reason is Reason.NOT_FINITE})
    return [f"weights of {name} hold NaN or Inf; the layer is left as it is" for name in names]
