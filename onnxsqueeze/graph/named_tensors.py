"""Tensors that a user names: by name, or by a glob pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from onnxsqueeze.errors import UsageError


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name is one of some names, or fits one of some glob patterns; case counts."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(option: str, patterns: Sequence[str], names: Iterable[str]) -> None:
    """Refuse a pattern that fits none of some names, which are looked at only if there is a pattern.

    Raises:
        UsageError: naming the option and the pattern.
    """
    known = list(names) if patterns else []
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(f"{option} {pattern}: no tensor of the model has such a name; see `inspect --verbose`")
