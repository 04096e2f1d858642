"""What rules take an attribute for that a node leaves out is what the operator's schema says."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper

import onnxsqueeze.operators
from onnxsqueeze.rules.registry import rules

ROOT = Path(onnxsqueeze.operators.__file__).parent


def operators_by_file() -> dict[Path, set[tuple[str, str]]]:
    """Return the operators and domains whose rules have a function in a file."""
    found: dict[Path, set[tuple[str, str]]] = defaultdict(set)
    for rule in rules():
        for field in fields(rule):
            call = getattr(rule, field.name)
            call = getattr(call, "__wrapped__", call)
            call = call.func if isinstance(call, partial) else call
            if hasattr(call, "__code__"):
                found[Path(call.__code__.co_filename)].add((rule.op, rule.domain))
    return found


def assumed(file: Path) -> Iterator[tuple[str, Any, int]]:
    """Yield each attribute that a file reads with a default: its name, the default, and the line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"):
            continue
        if isinstance(node.func.value, ast.Attribute) and node.func.value.attr == "attributes" and len(node.args) == 2:
            try:
                name, default = (ast.literal_eval(each) for each in node.args)
            except ValueError:  # it depends on the node
                continue
            yield name, default, node.lineno


def said_by_schemas() -> dict[tuple[str, str, str], set[float]]:
    """Return the numbers that are defaults in any version, by operator, domain and attribute."""
    found: dict[tuple[str, str, str], set[float]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        for name, attribute in schema.attributes.items():
            if attribute.default_value.type in (AttributeProto.INT, AttributeProto.FLOAT):
                number = helper.get_attribute_value(attribute.default_value)
                found[schema.name, schema.domain, name].add(np.float32(number).item())
    return found


def test_defaults_are_those_of_the_schemas() -> None:
    schemas, checked = said_by_schemas(), 0
    for file, operators in operators_by_file().items():
        for name, default, line in assumed(file) if ROOT in file.parents else ():
            said = set().union(*(schemas.get((*operator, name), set()) for operator in operators))
            if said and isinstance(default, (int, float)):
                checked += 1
                assert np.float32(default).item() in said, f"{file.name}:{line}: {name} is {default}, not of {said}"
    assert checked > 50
