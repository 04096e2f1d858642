"""Every operator with a rule has a lowering."""

from __future__ import annotations

import pytest

import onnxsqueeze.operators  # noqa: F401  (registers the rules)
from onnxsqueeze.rules.contract import OpRule
from onnxsqueeze.rules.registry import rules
from onnxsqueeze.training.lowerings import lowering_of, lowerings

NEWEST = 25
"""The opset version up to which lowerings must be there."""

WITHOUT: dict[tuple[str, str], str] = {
    ("", "Constant"): "its value is known before anything is traced",
    ("", "DeformConv"): "torch has none without torchvision",
    **{
        ("com.microsoft", op): "onnxruntime has it for GPUs alone, so that a lowering has nothing to be compared with"
        for op in ("PackedAttention", "PackedMultiHeadAttention", "RemovePadding", "RestorePadding")
    },
}
"""Operators with a rule that need no lowering, and why."""


def name(rule: OpRule) -> str:
    return f"{rule.domain}.{rule.op}-{rule.since}"


@pytest.mark.parametrize("rule", rules(), ids=name)
def test_rule_has_a_form_at_each_opset(rule: OpRule) -> None:
    found = lowering_of(rule)
    if (rule.domain, rule.op) in WITHOUT:
        assert not found, "there is a lowering now: it is to leave the list"
        return
    for version in range(rule.since, min(rule.until, NEWEST) + 1):
        assert any(lowering.since <= version <= lowering.until for lowering in found), version


def test_fixed_inputs_are_inputs() -> None:
    """Positions, not names; and no operator takes its data as fixed."""
    for lowering in lowerings():
        assert 0 not in lowering.fixed and all(position > 0 for position in (*lowering.fixed, *lowering.statistics))
