"""Exports of the library's networks, once for all tests of a process: the newer exporter takes seconds for each."""

from __future__ import annotations

from functools import cache

import onnx

from tools.models.architectures.exports import Exporter, Source

OLDER = Exporter(14, dynamo=False)
FUSED = Exporter(23, dynamo=True, attention="sdpa")
"""Attention, RMS norms and rotary embeddings as single operators."""


@cache
def library(name: str, exporter: Exporter = OLDER) -> onnx.ModelProto:
    """Return a small network of an architecture with random weights; it is shared, so change a copy."""
    return Source(name).export(exporter)
