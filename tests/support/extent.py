"""How much of what is alike is tried: the standard run takes a part, the long one of a night all of it."""

from __future__ import annotations

import os

LONG = os.environ.get("ONNXSQUEEZE_LONG") == "1"
"""All seeds, opset versions and combinations, as CONTRIBUTING.md says."""


def part(count: int) -> int:
    """Return how many of so many random cases of one kind are tried: a third, and all in the long run."""
    return count if LONG else -(-count // 3)
