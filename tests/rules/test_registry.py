"""Which rule a node has."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import UNKNOWN
from onnxsqueeze.rules.registry import REVIEWED, rule_for


def node(version: int, inputs: int = 2, domain: str = "", op: str = "MatMul", **attributes: int) -> Node:
    names = tuple(f"x{number}" for number in range(inputs))
    proto = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    return Node(0, op, domain, version, names, ("y",), (), proto)


def test_what_an_operator_got_since_the_rules_were_written() -> None:
    """An attribute or an input that nobody has looked at may change everything; a new version alone does not."""
    later = REVIEWED + 1
    assert rule_for(node(later)) is rule_for(node(13)) is not UNKNOWN
    assert rule_for(node(later, transpose=1)) is UNKNOWN
    assert rule_for(node(later, inputs=3)) is UNKNOWN
    assert rule_for(node(later, inputs=1, op="Softmax", axis=1)) is not UNKNOWN
    assert rule_for(node(later, op="FusedMatMul", domain="com.microsoft", transA=1)) is not UNKNOWN


def test_rules_know_the_newest_opset() -> None:
    """onnx says what has changed: look at it, and raise the number."""
    changed = [s for s in onnx.defs.get_all_schemas() if not s.domain and s.since_version > REVIEWED]
    found = {schema.name for schema in changed}
    if found:
        pytest.skip(f"not looked at yet: {', '.join(sorted(found))}")
