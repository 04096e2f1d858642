"""Forward hooks that only watch have no part in what a module computes, and cannot watch an export."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["same", "without_watchers"]

_TABLES = ("_forward_hooks", "_forward_pre_hooks")


def without_watchers(module: nn.Module, run: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Run a module with its hooks, take off those that returned nothing, and return its outputs.

    Without them it must return the same; else they change tensors in place, and all stay.

    Args:
        module: the module; its tables of hooks are changed.
        run: runs it.
    """
    tables: list[MutableMapping[int, Any]] = [
        table for part in module.modules() for name in _TABLES if (table := getattr(part, name))
    ]
    if not tables:
        return run()
    given = [dict(table) for table in tables]
    active: set[int] = set()
    for table in tables:
        for key, hook in table.items():
            table[key] = _noting(hook, key, active)
    try:
        outputs = run()
    finally:
        for table, hooks in zip(tables, given, strict=True):
            table.update(hooks)
    for table in tables:
        for key in [key for key in table if key not in active]:
            del table[key]
    if not same(outputs, run()):
        for table, hooks in zip(tables, given, strict=True):
            table.clear()
            table.update(hooks)
    return outputs


def _noting(hook: Callable[..., Any], key: int, active: set[int]) -> Callable[..., Any]:
    def noted(*arguments: Any, **keywords: Any) -> Any:
        result = hook(*arguments, **keywords)
        if result is not None:
            active.add(key)
        return result

    return noted


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two runs of a module have returned the same, but for rounding."""
    return len(one) == len(other) and all(map(_close, one, other))


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_floating_point() or one.is_complex():
        return torch.allclose(one, other, equal_nan=True)
    return torch.equal(one, other)
