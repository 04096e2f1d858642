"""The two sweeps: forward for shapes, values, intervals and classes; backward for liveness. They know no operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, fit_all
from onnxsqueeze.abstract.interval import top
from onnxsqueeze.abstract.specials import widened
from onnxsqueeze.analysis import special_values
from onnxsqueeze.analysis.backward import Liveness
from onnxsqueeze.coupling.keep_reason import Pin, Reason
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.graph.named_tensors import matches
from onnxsqueeze.graph.reachable import reachable
from onnxsqueeze.rules.channels import ties_others
from onnxsqueeze.rules.contract import UNKNOWN, Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.guard import blaming
from onnxsqueeze.rules.lessons import Learned, RuleFailed
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.shapes.inference import ShapeInference, fold


class Analysis:
    """What is known of a graph after the forward sweep, and the backward sweep over it.

    Attributes:
        context: shapes, values, intervals and classes.
        rules: the rule that holds for each node, UNKNOWN where none does.
        pins: tensors that never change.
        labels: the class of each identifier in ``context.elements.ids``. classes: their number.
    """

    def __init__(
        self, graph: Graph, keep: Sequence[str] = (), learned: Learned | None = None, only: Sequence[str] = ()
    ) -> None:
        """Run the forward sweep.

        Raises:
            RuleFailed: see `analysed`, which begins again then.
        """
        learned = learned or Learned()
        self.graph = graph = graph.with_failed(learned.failed)
        self.context = Context(graph, learned)
        self.context.tested = special_values.before_tests(graph)
        self.rules = self.context.rules
        self.pins: list[Pin] = []
        self._constant: dict[str, Bools] = {}
        self._asked: dict[tuple[int, bool], tuple[list[tuple[tuple[int, ...], bytes]], Sequence[Demand | None]]] = {}
        self._inference = ShapeInference(graph, self.context)
        self._seed()
        with blaming(self.context), np.errstate(all="ignore"):
            self._sweep()
        self._pin_requested(keep)
        self.labels, self.classes = self.context.elements.canonical()
        if only:
            self._pin_others(only)

    def _sweep(self) -> None:
        used = reachable(self.graph)
        for node in self.graph.nodes:
            if node.index in used:
                self._forward(node)
                self.graph.let_go(node)
            else:
                self.rules.append(UNKNOWN)  # it falls away, and what it reads is not tied by it

    def _seed(self) -> None:
        for name in (*self.graph.inputs, *sorted(self.graph.overridable)):
            self._activate(name)
            reason = Reason.OVERRIDABLE if name in self.graph.overridable else Reason.GRAPH_INPUT
            self.pins.append(Pin(name, reason))
        self.pins.extend(Pin(name, Reason.GRAPH_OUTPUT) for name in dict.fromkeys(self.graph.outputs))

    def _activate(self, name: str) -> None:
        rank = self.context.rank(name)
        self.context.intervals[name] = top(rank)
        if kind := self.context.learned.specials.get(name, 0):
            self.context.specials[name] = np.full((1,) * rank, kind, dtype=np.uint8)
        self.context.elements.ids[name] = self.context.elements.fresh((1,) * rank)

    def _pin_requested(self, patterns: Sequence[str]) -> None:
        for name in self.context.elements.ids:
            if matches(name, patterns):
                self.pins.append(Pin(name, Reason.KEPT_BY_USER))

    def _pin_others(self, patterns: Sequence[str]) -> None:
        """Pin what has no channel in common with the tensors that a user wants narrowed."""
        chosen = np.zeros(self.classes, dtype=bool)
        for name in self.context.elements.ids:
            if matches(name, patterns):
                chosen[self.classes_of(name)] = True
        for name in self.context.elements.ids:
            if not chosen[self.classes_of(name)].any():
                self.pins.append(Pin(name, Reason.NOT_ASKED))

    def _forward(self, node: Node) -> None:
        context = self.context
        registered = rule_for(node)
        self._inference.infer(node, registered)
        fold(node, registered, context)
        rule = self._resolve(node, registered)
        self.rules.append(rule)
        if all(context.value(name) is not None for name in node.outputs if name):
            return
        intervals = rule.forward(node, context)
        specials = special_values.find(node, rule, context)
        context.specials.update(specials)
        for name, interval in zip(node.outputs, intervals, strict=False):
            if name:
                context.intervals[name] = widened(interval, specials[name]) if name in specials else interval
        stated = len(context.elements.constraints)
        rule.link(node, context)
        for origin in range(stated, len(context.elements.constraints)):
            context.elements.origins[origin] = node.label
        self._pin_known(node)

    def _pin_known(self, node: Node) -> None:
        """What is known of some outputs alone (parts of computed shapes) stays whole: readers ask for nothing of it."""
        for name in node.outputs:
            if name and self.context.value(name) is not None and self.context.ids(name).size > 1:
                self.pins.append(Pin(name, Reason.CONSTANT_READ, f"sizes of {node.operator}"))

    def _resolve(self, node: Node, rule: OpRule) -> OpRule:
        refusal = None
        if node.failed:
            failure = self.context.learned.failed.get(node.index)
            at_fault = Reason.NOT_RUNNABLE if failure is not None and failure.refused else Reason.INTERNAL_ERROR
            refusal = Refusal(at_fault, node.operator)
        elif rule is UNKNOWN:
            refusal = Refusal(Reason.UNKNOWN_OPERATOR, node.operator)
        elif node.captured:
            refusal = Refusal(Reason.SUBGRAPH, node.operator)
        elif any(name and name not in self.context.shapes for name in (*node.inputs, *node.outputs)):
            refusal = Refusal(Reason.UNKNOWN_SHAPE, node.operator)
        elif self._touches_empty(node):
            refusal = Refusal(Reason.EMPTY, node.operator)
        else:
            rule = rule.dispatch(node, self.context) if rule.dispatch else rule
            refusal = rule.applies(node, self.context) if rule.applies else None
            if refusal is None and rule.beside is not None and node.index in self.context.learned.beside:
                rule = self._either_way(node, rule, rule.beside)
        if refusal is None:
            return rule
        self.context.refusals[node.index] = self.of_callers(node, refusal)
        return UNKNOWN

    def of_callers(self, node: Node, refusal: Refusal) -> Refusal:
        """Name the weight that a caller may replace where that is why it is none: it is stored, and not computed."""
        replaceable = [name for name in node.inputs if name in self.graph.overridable]
        if refusal.reason is not Reason.COMPUTED_WEIGHT or not replaceable:
            return refusal
        return Refusal(Reason.OVERRIDABLE, replaceable[0])

    def _either_way(self, node: Node, rule: OpRule, beside: OpRule) -> OpRule:
        """Return the reading that passes channels where there are some, as in the analysis that asked for it."""
        assert rule.linear is not None
        linear = rule.linear(node, self.context)
        return beside if ties_others(self.context, linear) else rule

    def _touches_empty(self, node: Node) -> bool:
        """Whether a node reads or makes an activation without elements, of which a rule could say anything.

        Its axes still have lengths that others rely on: those of nothing along a thousand channels are a thousand.
        """
        inputs = [name for name in node.inputs if self.context.is_activation(name)]
        return any(0 in self.context.shape(name) for name in (*inputs, *node.outputs) if name)

    def tying(self, plan: Plan) -> frozenset[int]:
        """Return nodes that could pass channels that they tie: those of which nothing leaves by a plan, else all.

        With them come those of the same kind that would tie what these let pass, which holds for one layer after the
        other: asked for one by one, they would cost an analysis each.
        """
        if self.context.crossed <= self.context.learned.beside:  # most graphs tie nothing, and none is looked at
            return frozenset()
        nodes = [
            (node, rule)
            for node, rule in zip(self.graph.nodes, self.rules, strict=True)
            if node.index not in self.context.learned.beside and self._may_pass(node, rule)
        ]
        crossed = self.context.crossed.intersection(node.index for node, _ in nodes)
        whole = {node.index for node, rule in nodes if self._stays_whole(node, rule, plan)}
        if crossed & whole:
            return frozenset(whole)
        return frozenset(node.index for node, _ in nodes) if crossed else frozenset()

    def _may_pass(self, node: Node, rule: OpRule) -> bool:
        if rule.beside is None or rule.linear is None or node.outputs[0] not in self.context.elements.ids:
            return False
        return rule.beside.applies is None or rule.beside.applies(node, self.context) is None

    def _stays_whole(self, node: Node, rule: OpRule, plan: Plan) -> bool:
        assert rule.linear is not None
        linear, output = rule.linear(node, self.context), node.outputs[0]
        axes = ((linear.data, linear.data_axis), (output, linear.output_axis))
        whole = all(plan.kept(name, axis, self.context.rank(name)).all() for name, axis in axes)
        return whole and node.index not in plan.narrowings

    def requested(self, options: Mapping[str, str]) -> list[Node]:
        """Return the nodes that a user's options want rewritten even where nothing leaves them."""
        rules = zip(self.graph.nodes, self.rules, strict=True)
        return [node for node, rule in rules if rule.requested is not None and rule.requested(node, options)]

    def classes_of(self, name: str) -> npt.NDArray[np.int64]:
        """Return the class of each element of an activation (compact)."""
        ids: npt.NDArray[np.int64] = self.labels[self.context.ids(name)]
        return ids

    def maker(self, name: str) -> str:
        """Return the node that makes a tensor, as a user knows it; the tensor's own name for a graph input."""
        return self.graph.producers[name].label if name in self.graph.producers else name

    def constant(self, name: str) -> Bools:
        """Return which elements of an activation are constant, at the granularity of its classes."""
        if name not in self._constant:
            self._constant[name] = fit_all(self.context.interval(name).constant, self.context.ids(name).shape)
        return self._constant[name]

    def supposing(self, chosen: Bools) -> Analysis:
        """Return the analysis as it would be if the chosen classes were constant in all tensors, for planning alone."""
        supposed = copy(self)
        names = self.context.elements.ids
        supposed._constant = {name: self.constant(name) | chosen[self.classes_of(name)] for name in names}
        return supposed

    def backward(self, kept: Bools, gone: Bools | None = None) -> Liveness:
        """Return what is needed of each activation if at least the classes in ``kept`` stay, and those ``gone`` do not.

        Args:
            kept: by class. gone: by class what counts as constant, whatever its weights are.
        """
        liveness = Liveness({}, {}, [])
        for name in self.graph.outputs:
            if self.context.is_activation(name):
                liveness.add(name, Demand(np.full((), True)), self.context.ids(name).shape)
        for node in reversed(self.graph.nodes):
            outputs = [self._wanted(name, liveness.required, kept, gone) for name in node.outputs]
            reconstructible = any(
                name in liveness.live and liveness.live[name] is not liveness.required[name] for name in node.outputs
            )
            if any(output.any() for output in outputs):
                self._spread(node, outputs, liveness)
            if reconstructible:
                outputs = [self._wanted(name, liveness.live, kept, gone) for name in node.outputs]
                self._spread(node, outputs, liveness, required=False)
        return liveness

    def _wanted(self, name: str, live: Mapping[str, Bools], kept: Bools, gone: Bools | None) -> Bools:
        """An element is computed if it is live and no constant, or if it stays for whatever reason."""
        if not name or not self.context.is_activation(name):
            return np.full((1,) * self.context.rank(name), False)
        classes = self.classes_of(name)
        stays = kept[classes]
        if name not in live:
            return stays
        constant = self.constant(name) if gone is None else self.constant(name) | gone[classes]
        return (live[name] & ~constant) | stays

    def _spread(self, node: Node, outputs: Sequence[Bools], liveness: Liveness, required: bool = True) -> None:
        for name, demand in zip(node.inputs, self._demands(node, outputs, required), strict=False):
            if name and demand is not None and self.context.is_activation(name):
                liveness.add(name, demand, self.context.ids(name).shape, required, node.label)
        for name, demand in special_values.demands(node, self.rules[node.index], self.context).items():
            liveness.add(name, demand, self.context.ids(name).shape, node=node.label)
        everything = np.full((), True)
        for name in node.captured:
            if self.context.is_activation(name):
                demand = Demand(everything, everything, Reason.SUBGRAPH, node.operator)
                liveness.add(name, demand, self.context.ids(name).shape, node=node.label)

    def _demands(self, node: Node, outputs: Sequence[Bools], required: bool) -> Sequence[Demand | None]:
        """Ask a rule what is needed of each input; not again for what it was asked in the sweep before."""
        key = [(output.shape, output.tobytes()) for output in outputs]
        asked = self._asked.get((node.index, required))
        if asked is None or asked[0] != key:
            asked = self._asked[node.index, required] = key, self.rules[node.index].need(node, self.context, outputs)
        return asked[1]


def analysed(
    graph: Graph, keep: Sequence[str] = (), learned: Learned | None = None, only: Sequence[str] = ()
) -> Analysis:
    """Run the forward sweep, once more for each rule that fails: its node is an unknown operator from then on.

    Args:
        graph: of a canonicalized model. keep: names or glob patterns of tensors of which no channel may go.
        only: the same of those of which channels may go, and of what has channels in common with them; () for all.
        learned: what is known already; ``context.learned`` of the result has the failures too.
    """
    learned = learned or Learned()
    while True:
        try:
            return Analysis(graph, keep, learned, only)
        except RuleFailed as failure:
            before, learned = learned, failure.join(learned)
            if not learned.adds_to(before):
                raise
