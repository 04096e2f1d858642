"""The registry of rules, by operator, domain and opset version."""

from __future__ import annotations

from functools import cache

import onnx

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import UNKNOWN, OpRule
from onnxsqueeze.rules.guard import guarded

REVIEWED = 28
"""The newest opset of onnx whose operators have been looked at: what they got since then is no rule's."""

_RULES: dict[tuple[str, str], list[OpRule]] = {}


def register(*rules: OpRule) -> None:
    """Add rules to the registry, guarded; two rules for one operator must not overlap in opset versions."""
    for rule in rules:
        others = _RULES.setdefault((rule.domain, rule.op), [])
        if any(rule.since <= other.until and other.since <= rule.until for other in others):
            raise ValueError(f"two rules for {rule.op} at one opset version")
        others.append(guarded(rule))


def rule_for(node: Node) -> OpRule:
    """Return the rule of a node's operator at its opset version, or UNKNOWN.

    That also stands for a node whose rule has failed, and one with an attribute or an input that its operator had not
    when the rule was written.
    """
    if node.failed or (node.version > REVIEWED and not node.domain and not _had_all(node)):
        return UNKNOWN
    for rule in _RULES.get((node.domain, node.op), ()):
        if rule.since <= node.version <= rule.until:
            return rule
    return UNKNOWN


def _had_all(node: Node) -> bool:
    """Whether an operator had all attributes and inputs of a node in the newest opset that was looked at."""
    known = _schema(node.op)
    return known is None or (known[0].issuperset(node.attributes) and len(node.inputs) <= known[1])


@cache
def _schema(op: str) -> tuple[frozenset[str], int] | None:
    """Return an operator's attributes and its most inputs, None for one that there was not."""
    if not onnx.defs.has(op):
        return None
    try:
        schema = onnx.defs.get_schema(op, REVIEWED, "")
    except onnx.defs.SchemaError:
        return None
    return frozenset(schema.attributes), schema.max_input


def rules() -> list[OpRule]:
    """Return all registered rules, by operator."""
    return [rule for key in sorted(_RULES) for rule in _RULES[key]]
