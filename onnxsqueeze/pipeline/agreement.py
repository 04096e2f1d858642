"""What masks that agree would be worth: where tensors are added, a channel goes only if it is masked in all of them.

Each partner of a sum often loses as many channels as the others, but other ones, so that none is lost by all. The
question answered here is what would be left if they were the same ones. No weight is looked at again: the channels are
supposed to be constant wherever they stand, and the plan is made once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.constraint import Classes, Constraint
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.planning.fixpoint import make_plan
from onnxsqueeze.reporting.layers import Layer, layers_of
from onnxsqueeze.rules.lessons import RuleFailed
from onnxsqueeze.rules.plan import Plan

_WORTHWHILE = 0.95  # of what is left now: below that it is worth telling


@dataclass(frozen=True)
class Agreement:
    """What a report says of masks that disagree.

    Attributes:
        sums: at how many nodes a channel stays that some of the tensors added there do without.
        share: the part of the layers' weight elements that would be left, 0 to 1.
    """

    sums: int
    share: float


@dataclass
class _Stream:
    """The tensors that are added to each other, over and over, along the same channels.

    Attributes:
        classes: of the channels. sums: how many nodes add. masked: by tensor that comes from elsewhere and is added,
            which channels are constant in it.
    """

    classes: Classes
    sums: int = 0
    masked: dict[str, Bools] = field(default_factory=dict)

    def agreed(self) -> Classes:
        """Return as many channels as each tensor lacks at least: those that most of them lack."""
        masks = np.stack(list(self.masked.values()))
        order = np.argsort(-masks.sum(axis=0), kind="stable")
        return self.classes[order[: int(masks.sum(axis=1).min())]]


def agreement(
    analysis: Analysis, plan: Plan, policy: Sequence[Constraint], layers: Sequence[Layer]
) -> Agreement | None:
    """Return what masks that agree would leave; None where they agree, or where it would not be much less.

    Each tensor is supposed to lack as many channels as before, or fewer: as many as the one that lacks fewest.

    Args:
        analysis, plan: what was decided. policy: the constraints of the cost policy. layers: what came of the plan.
    """
    streams = _streams(analysis, plan)
    chosen = np.zeros(analysis.classes, dtype=bool)
    for stream in streams:
        chosen[stream.agreed()] = True
    before, left = sum(layer.weights_before for layer in layers), sum(layer.weights_after for layer in layers)
    if not chosen.any() or not before:
        return None
    supposed = analysis.supposing(chosen)
    try:
        rows = layers_of(supposed, make_plan(supposed, policy), analysis.context.shapes)
    except RuleFailed:  # it is but advice
        return None
    share = sum(layer.weights_after for layer in rows) / before
    return Agreement(sum(stream.sums for stream in streams), share) if share < _WORTHWHILE * left / before else None


def _streams(analysis: Analysis, plan: Plan) -> list[_Stream]:
    """Return the streams at whose sums masks disagree."""
    found: dict[bytes, _Stream] = {}
    carried: dict[bytes, set[str]] = defaultdict(set)
    for node in analysis.graph.nodes:
        if not node.outputs or not analysis.context.is_activation(node.outputs[0]):
            continue
        classes = analysis.classes_of(node.outputs[0]).ravel()
        key = classes.tobytes()
        added = _alike(analysis, node, key) if classes.size > 1 else []
        if _disagree(analysis, plan, node, added):
            stream = found.setdefault(key, _Stream(classes))
            stream.sums += 1
            others = [name for name in added if name not in carried[key]]
            stream.masked.update({name: analysis.constant(name).ravel() for name in others})
            carried[key].add(node.outputs[0])
        elif carried[key].intersection(added):  # an activation, a norm: the stream goes on
            carried[key].update(node.outputs)
    return [stream for stream in found.values() if stream.masked]


def _alike(analysis: Analysis, node: Node, key: bytes) -> list[str]:
    """Return the inputs whose channels stand at the same slots as the output's."""
    names = [name for name in dict.fromkeys(node.inputs) if name and analysis.context.is_activation(name)]
    return [name for name in names if analysis.classes_of(name).tobytes() == key]


def _disagree(analysis: Analysis, plan: Plan, node: Node, added: Sequence[str]) -> bool:
    """Whether a channel that stays is constant in some of the inputs alone, and varies in what comes out."""
    if len(added) < 2:
        return False
    output = node.outputs[0]
    constant = np.stack([analysis.constant(name).ravel() for name in added])
    kept = np.broadcast_to(plan.masks.get(output, np.full((), True)), analysis.classes_of(output).shape).ravel()
    varies = kept & ~analysis.constant(output).ravel()
    return bool((constant.any(axis=0) & ~constant.all(axis=0) & varies).any())
