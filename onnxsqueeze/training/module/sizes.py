"""Sizes known only at run time, as expressions over the shapes of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch.fx

from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic

Source = Callable[[], torch.fx.Proxy]


class SymbolicSizes:
    """Finds a traced expression for symbolic sizes, each evaluated once and only if something asks for it."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[Symbolic, Source, int]] = {}
        self._named: dict[str, torch.fx.Proxy] = {}
        self._found: dict[Symbolic, torch.fx.Proxy] = {}

    def bind(self, shape: Shape, tensor: Source) -> None:
        """Learn names from the shape of a tensor that is computed by now: ``2*batch+1`` tells what ``batch`` is."""
        for axis, size in enumerate(shape):
            if isinstance(size, Symbolic) and len(size.names) == 1:
                self._sources.setdefault(size.names[0], (size, tensor, axis))

    def resolvable(self, size: Dimension) -> bool:
        """Whether `resolve` can tell a size."""
        return not isinstance(size, Symbolic) or all(name in self._sources for name in size.names)

    def resolve(self, size: Dimension) -> int | torch.fx.Proxy:
        """Return a size as an int, or traced; it must be `resolvable`."""
        if not isinstance(size, Symbolic):
            return int(size)
        if size not in self._found:
            self._found[size] = self._computed(size)
        return self._found[size]

    def _computed(self, size: Symbolic) -> torch.fx.Proxy:
        result: Any = self._name(size.names[0])
        for name in size.names[1:]:
            result = result * self._name(name)
        result = result * size.coefficient if size.coefficient != 1 else result
        return cast(torch.fx.Proxy, result + size.offset if size.offset else result)

    def _name(self, name: str) -> torch.fx.Proxy:
        if name not in self._named:
            size, tensor, axis = self._sources[name]
            found = cast(Any, tensor()).shape[axis]
            found = found - size.offset if size.offset else found
            self._named[name] = found // size.coefficient if size.coefficient != 1 else found
        return self._named[name]
