"""A pattern: the operator that it spells, and how what was matched becomes the fused node's inputs and attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxsqueeze.canonicalization.patterns.expression import Expression, Match
from onnxsqueeze.canonicalization.patterns.scope import Scope


@dataclass(frozen=True)
class Fused:
    """The operator that a match stands for, with its attributes."""

    op: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Pattern:
    """A family of spellings of one operator.

    Attributes:
        expression: what the nodes compute.
        inputs: the named parts that become the inputs of the fused node, "" where a match has none.
        parameters: the named numbers that become attributes.
        fused: says which operator a match is, None if it is none after all.
    """

    expression: Expression
    inputs: Sequence[str]
    parameters: Sequence[str]
    fused: Callable[[Match, Scope], Fused | None]
