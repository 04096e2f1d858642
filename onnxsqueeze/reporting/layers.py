"""One row for each node that holds weights, with a rule or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools
from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.keep_reason import Why
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.initializer import element_bits
from onnxsqueeze.reporting.stayed import Stayed, words
from onnxsqueeze.reporting.unknown_layers import Held, unknown_layers
from onnxsqueeze.rules.contract import OpRule
from onnxsqueeze.rules.lessons import Failure, RuleFailed
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.weight_source import codes_of


@dataclass(frozen=True)
class Layer:
    """One node that holds weights: it multiplies by constants.

    Attributes:
        name, operator: the node. output: the tensor that it makes.
        shape_before, shape_after: of its (first) weight; () if the layer vanishes.
        weights_before, weights_after: elements of all of its weights and biases. dtype: of its (first) weight as it is
            stored. bytes_before, bytes_after: what weights and biases take as they are stored. macs_before, macs_after:
            multiply-accumulates for one sample, dynamic sizes other than the batch taken as in `Report.sizes`; 0 where
            ``counted`` is False.
        sparsity: the share of exact zeros in its weights.
        channels: output channels; of these dead (nothing needs them), constant, and removed.
        stayed: for the dead and constant ones that stayed, and for rows and columns of zeros between channels that
            stay, how many for which reason; each of them once.
        nodes: by reason, the nodes that bring it about.
        counted: whether it is known how often its weights are multiplied; not without a rule.
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
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counted: bool = True
    dtype: str = "float32"
    bytes_before: int = 0
    bytes_after: int = 0


def layers_of(
    analysis: Analysis,
    plan: Plan,
    shapes: Mapping[str, Shape],
    failures: list[Failure] | None = None,
    *,
    inside: bool = True,
) -> list[Layer]:
    """Return the rows of all layers, in the graph's order.

    Args:
        analysis, plan: what was decided. shapes: of all tensors, for counting multiply-accumulates.
        failures: is told of layers that are left out because their rules fail.
        inside: whether to say what lies inside of nodes, of which nothing else is said.

    Raises:
        RuleFailed: where a rule fails, and ``failures`` is None.
    """
    context, stays, needed = analysis.context, _staying(analysis, plan), needed_of(analysis, plan)
    found = [(held.index, _unknown(held)) for held in unknown_layers(analysis, inside=inside)]
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        output = next((name for name in node.outputs if name), "")
        if not context.is_activation(output):
            continue
        try:
            parameters = rule.parameters(node, context)
            if any(parameter.role is Role.WEIGHT for parameter in parameters):
                row = _Row(analysis, plan, node, rule, output, parameters, stays, needed, shapes)
                found.append((node.index, row.layer()))
                analysis.graph.let_go(node)
        except RuleFailed as error:  # the model may be written already
            if failures is None:
                raise
            failures.append(replace(error.failure, effect="the report has no row for it"))
    return [layer for _, layer in sorted(found, key=lambda entry: entry[0])]


def _unknown(held: Held) -> Layer:
    """Return the row of a layer that stays as it is, since no rule is followed for it."""
    reason = words(Why(held.refusal.reason, held.refusal.detail))
    return Layer(
        name=held.name,
        operator=held.operator,
        output=held.output,
        shape_before=held.shape,
        shape_after=held.shape,
        weights_before=held.elements + held.biases,
        weights_after=held.elements + held.biases,
        macs_before=0,
        macs_after=0,
        sparsity=held.zeros / max(1, held.elements),
        channels=0,
        dead=0,
        constant=0,
        removed=0,
        stayed={reason: held.empty_rows} if held.empty_rows else {},
        nodes={reason: (held.name,)},
        counted=False,
        dtype=held.dtype,
        bytes_before=held.nbytes,
        bytes_after=held.nbytes,
    )


def needed_of(analysis: Analysis, plan: Plan) -> Mapping[str, Bools]:
    """Return what the outputs depend on, whatever else stays: what does not is dead, kept or not."""
    try:
        return analysis.backward(np.zeros(analysis.classes, dtype=bool)).live
    except RuleFailed:  # planning went another way
        return plan.live


def _staying(analysis: Analysis, plan: Plan) -> Bools:
    """Return which identifiers of classes stay."""
    kept = np.ones(analysis.classes, dtype=bool)
    for name, mask in plan.masks.items():
        kept[analysis.classes_of(name)[~mask]] = False
    return np.asarray(kept[analysis.labels])


@dataclass(frozen=True)
class _Row:
    """What a row is made from.

    ``stays`` says which identifiers of classes stay, ``needed`` by tensor what the outputs depend on.
    """

    analysis: Analysis
    plan: Plan
    node: Node
    rule: OpRule
    output: str
    parameters: Sequence[Parameter]
    stays: Bools
    needed: Mapping[str, Bools]
    shapes: Mapping[str, Shape]

    def layer(self) -> Layer:
        weights = [parameter for parameter in self.parameters if parameter.role is Role.WEIGHT]
        biases = [parameter for parameter in self.parameters if parameter.role is Role.SUMMAND]
        before = {parameter.name: self._shape(parameter) for parameter in (*weights, *biases)}
        after = {parameter.name: self._left(parameter) for parameter in (*weights, *biases)}
        if not any(prod(after[parameter.name]) for parameter in weights):
            after = dict.fromkeys(after, (0,))
        first = after[weights[0].name]
        dead, constant, removed, stayed = self._channels()
        whole = self.plan.whole.get(self.node.index)
        if whole is not None:  # its rows of zeros make constants, which are counted with the channels
            for zeros, kind in (
                (max(0, whole.rows - sum(stayed.counts().values())), "rows of zeros"),
                (whole.columns, "columns of zeros"),
            ):
                stayed.add(Why(whole.reason, kind, self.node.label), zeros)
        return Layer(
            name=self.node.label,
            operator=self.node.operator,
            output=self.output,
            shape_before=before[weights[0].name],
            shape_after=first if prod(first) else (),
            weights_before=sum(map(prod, before.values())),
            weights_after=sum(map(prod, after.values())),
            macs_before=sum(self._positions(parameter) * prod(before[parameter.name]) for parameter in weights),
            macs_after=sum(self._positions(parameter) * prod(after[parameter.name]) for parameter in weights),
            sparsity=1.0 - self._nonzero(weights),
            channels=self._size(),
            dead=dead,
            constant=constant,
            removed=removed,
            stayed=stayed.counts(),
            nodes=stayed.nodes(),
            dtype=self._dtype(weights[0].name).name,
            bytes_before=sum(self._bytes(name, shape) for name, shape in before.items()),
            bytes_after=sum(self._bytes(name, shape) for name, shape in after.items()),
        )

    def _dtype(self, name: str) -> np.dtype[Any]:
        """Return the type in which a constant is stored, be it as codes."""
        codes = codes_of(self.analysis.context, name)
        return codes.dtype if codes is not None else np.asarray(self.analysis.context.value(name)).dtype

    def _bytes(self, name: str, shape: tuple[int, ...]) -> int:
        """Return how many bytes a constant of a shape takes in its type; of some types several share one."""
        dtype = self._dtype(name)
        return -(-prod(shape) * element_bits(dtype) // 8)

    def _shape(self, parameter: Parameter) -> tuple[int, ...]:
        value = self.analysis.context.value(parameter.name)
        return () if value is None else value.shape

    def _left(self, parameter: Parameter) -> tuple[int, ...]:
        """Return the shape of what stays of a constant; a layer may compute with a part of what does."""
        part = self.plan.narrowings.get(self.node.index)
        if part is not None and parameter.role is Role.WEIGHT and self.rule.linear is not None:
            linear = self.rule.linear(self.node, self.analysis.context)
            after = (1, int(part.rows.sum()), int(part.columns.sum()), linear.matrix.shape[3])
            *others, last = linear.restore(np.empty(after, dtype=bool)).shape
            return (*others, -(-last // parameter.packed))
        return parameter.shape_left(self.stays, self._shape(parameter))

    def _positions(self, parameter: Parameter) -> int:
        """Return how often the numbers of an element of a weight are multiplied in one sample."""
        if parameter.data is None:
            return 0
        name, axes = parameter.data
        shape = self.shapes.get(name, self.analysis.context.shape(name))
        return parameter.packed * prod(_number(shape[axis]) for axis in axes)

    def _nonzero(self, weights: list[Parameter]) -> float:
        """Return the share of numbers in weights that are not zero."""
        codes = [self._codes(parameter) for parameter in weights]
        return sum(int(np.count_nonzero(array)) for array in codes) / max(1, sum(array.size for array in codes))

    def _codes(self, parameter: Parameter) -> Array:
        """Return an array that is zero where a weight is."""
        context = self.analysis.context
        value = np.asarray(context.value(parameter.name))
        linear = None if self.rule.linear is None else self.rule.linear(self.node, context)
        if linear is not None and linear.weight == parameter.name and linear.matrix.dtype != value.dtype:
            return linear.matrix  # which is decoded of it
        zero = context.value(parameter.zero_point) if parameter.zero_point else None
        if zero is None:
            return value
        others = [axis for axis in range(value.ndim) if axis not in parameter.zero_axes]
        return np.asarray(value != (zero if zero.size == 1 else np.expand_dims(zero, others)))

    def _size(self) -> int:
        """Return the number of output channels."""
        if self.rule.linear is None:
            return int(self.analysis.context.ids(self.output).size)
        linear = self.rule.linear(self.node, self.analysis.context)
        return int(linear.groups * linear.matrix.shape[1])

    def _channels(self) -> tuple[int, int, int, Stayed]:
        """Return how many output channels are dead, constant and removed, and why constant ones stayed."""
        name, plan = self.output, self.plan
        shape = self.analysis.context.ids(name).shape
        live = np.broadcast_to(self.needed.get(name, np.full(shape, False)), shape)
        constant = self.analysis.constant(name)
        kept = np.broadcast_to(plan.masks.get(name, np.full(shape, True)), shape)
        repeat = max(1, self._size() // max(1, live.size))
        dead = ~live & ~constant
        stayed = Stayed()
        stayed.add_all(plan.reasons[name], kept & (constant | dead), self.analysis.maker(name), repeat)
        return int(dead.sum()) * repeat, int(constant.sum()) * repeat, int((~kept).sum()) * repeat, stayed


def _number(size: Dimension) -> int:
    return max(1, size.coefficient + size.offset) if isinstance(size, Symbolic) else size
