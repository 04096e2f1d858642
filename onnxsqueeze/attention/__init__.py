"""What the operators have in common that compute attention in one node."""

from __future__ import annotations

from onnxsqueeze.attention.heads import Heads, HeadSizes, attention_shapes, caches_of, heads_of
from onnxsqueeze.attention.rule import Attention, attention_rule
from onnxsqueeze.attention.scores import everything, per_head

__all__ = [
    "Attention",
    "HeadSizes",
    "Heads",
    "attention_rule",
    "attention_shapes",
    "caches_of",
    "everything",
    "heads_of",
    "per_head",
]
