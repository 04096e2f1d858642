"""The registry of rules, by operator, domain and opset version."""

from __future__ import annotations

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import UNKNOWN, OpRule
from onnxsqueeze.rules.guard import guarded

_RULES: dict[tuple[str, str], list[OpRule]] = {}


def register(*rules: OpRule) -> None:
    """Add rules to the registry, guarded; two rules for one operator must not overlap in opset versions."""
    for rule in rules:
        others = _RULES.setdefault((rule.domain, rule.op), [])
        if any(rule.since <= other.until and other.since <= rule.until for other in others):
            raise ValueError(f"two rules for {rule.op} at one opset version")
        others.append(guarded(rule))


def rule_for(node: Node) -> OpRule:
    """Return the rule of a node's operator at its opset version, or UNKNOWN, also where its rule has failed."""
    if node.failed:
        return UNKNOWN
    for rule in _RULES.get((node.domain, node.op), ()):
        if rule.since <= node.version <= rule.until:
            return rule
    return UNKNOWN


def rules() -> list[OpRule]:
    """Return all registered rules, by operator."""
    return [rule for key in sorted(_RULES) for rule in _RULES[key]]
