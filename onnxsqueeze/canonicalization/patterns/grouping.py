"""GroupNormalization before opset 21: each group becomes one channel of an InstanceNormalization, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxsqueeze.canonicalization.patterns.expression import Computed, Match, OneOf, Operation, Weight, add
from onnxsqueeze.canonicalization.patterns.pattern import Fused, Pattern
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Node


@dataclass(frozen=True)
class Regrouped(Computed):
    """``Reshape(InstanceNormalization(Reshape(x, [0, groups, -1]), 1, 0), shape of x)``."""

    @cached_property
    def operators(self) -> frozenset[str]:
        return frozenset({"Reshape"})

    def of(self, node: Node, scope: Scope, match: Match) -> Iterator[Match]:
        norm = scope.producer(node.inputs[0])
        if norm is None or norm.op != "InstanceNormalization":
            return
        split = scope.producer(norm.inputs[0])
        if split is None or split.op != "Reshape" or not _splits(split, norm, scope):
            return
        found = match.with_member(node).with_member(norm).with_member(split).bound("x", (split, 0))
        if found is not None:
            yield from _shaped_as_before(node, split.inputs[0], scope, found)


def _splits(split: Node, norm: Node, scope: Scope) -> bool:
    """Whether groups are laid out as channels, and no scale or bias is theirs."""
    target, scale, bias = (scope.known(name) for name in (split.inputs[1], *norm.inputs[1:3]))
    if target is None or scale is None or bias is None or split.attributes.get("allowzero", 0):
        return False
    return target.tolist() == [0, scale.size, -1] and bool((scale == 1).all() and (bias == 0).all())


def _shaped_as_before(node: Node, source: str, scope: Scope, match: Match) -> Iterator[Match]:
    """Yield the match if a Reshape gives its input the shape of ``source``."""
    producer = scope.producer(node.inputs[1])
    if producer is not None and producer.op == "Shape":
        whole = not producer.attributes.get("start", 0) and "end" not in producer.attributes
        found = match.with_member(producer).bound("x", (producer, 0))
        if whole and found is not None:
            yield found
        return
    target, shape = scope.constant(node.inputs[1]), scope.shape(source)
    if target is not None and shape is not None and target.tolist() == shape:
        yield match


def _named(match: Match, scope: Scope) -> Fused | None:
    norm = next(node for node in match.members.values() if node.op == "InstanceNormalization")
    groups = scope.known(norm.inputs[1])
    assert groups is not None
    epsilon = float(np.float32(norm.attributes.get("epsilon", 1e-5)))
    return Fused("GroupNormalization", {"num_groups": groups.size, "epsilon": epsilon})


def _group_normalization() -> OneOf:
    bare = Regrouped()
    scaled = Operation("Mul", (Weight("scale"), bare))
    return OneOf((add(Weight("bias"), scaled), add(Weight("bias"), bare), scaled, bare))


PATTERNS = (Pattern(_group_normalization(), ("x", "scale", "bias"), (), _named),)
