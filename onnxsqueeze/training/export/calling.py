"""How a module is called and what it returns, as flat sequences of named tensors, which is all that ONNX has."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from onnxsqueeze.errors import UsageError, one_line

__all__ = ["NodeCall", "Flat", "Inputs", "named_outputs"]

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""What to call a module with: one tensor, positional arguments, or keyword arguments."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class NodeCall:
    """Example arguments of a module. Tensors in them, in whatever containers, are inputs; all else is constant.

    Attributes:
        arguments, keywords: what to call it with.
        names: a name for each tensor, made from the parameters of the module's forward.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, inputs: Inputs) -> NodeCall:
        """Take inputs apart; tensors are taken to the CPU.

        Raises:
            UsageError: when the module's forward has other parameters, or when there is no tensor among the inputs.
        """
        arguments: tuple[Any, ...] = ()
        keywords: Mapping[str, Any] = {}
        if isinstance(inputs, Mapping):
            keywords = dict(inputs)
        else:
            arguments = tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)
        named = [*zip(_positional_names(module, arguments, keywords), arguments, strict=True), *keywords.items()]
        found = [(name, leaf) for key, value in named for name, leaf in leaves(value, key) if isinstance(leaf, Tensor)]
        if not found:
            raise UsageError("the example inputs hold no tensor; give what the module is called with")
        names = distinct([name for name, _ in found], ())
        return cls(arguments, keywords, names).with_tensors([tensor.detach().cpu() for _, tensor in found])

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, as many as names."""
        return [leaf for _, leaf in leaves((self.arguments, dict(self.keywords)), "") if isinstance(leaf, Tensor)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> NodeCall:
        """Return the same call of other tensors."""
        others = iter(tensors)
        return NodeCall(_replaced(self.arguments, others), _replaced(self.keywords, others), self.names)

    def run(self, module: nn.Module) -> Any:
        """NodeCall a module."""
        return module(*self.arguments, **self.keywords)


class Flat(nn.Module):
    """A module that takes and returns plain sequences of tensors: what both exporters of torch can write."""

    def __init__(self, module: nn.Module, call: NodeCall) -> None:
        super().__init__()
        self.module = module
        self._call = call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the module. What it returns as it was given, or twice, is copied: each output has a name of its own."""
        seen = {id(tensor) for tensor in (*tensors, *self.module.parameters(), *self.module.buffers())}
        found: list[Tensor] = []
        for _, tensor in named_outputs(self._call.with_tensors(tensors).run(self.module)):
            found.append(tensor.clone() if id(tensor) in seen else tensor)
            seen.add(id(tensor))
        return tuple(found)


def named_outputs(value: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors that a module returned, with names: the keys of mappings and fields, else ``output``.

    Raises:
        UsageError: when it returned anything else.
    """
    keyed = isinstance(value, Mapping) or is_dataclass(value)
    found = list(leaves(value, "" if keyed else "output"))
    for name, leaf in found:
        if not isinstance(leaf, Tensor):
            raise UsageError(
                f"the module returns a {type(leaf).__name__} as {name}; let it return tensors, "
                "or tuples, lists and dicts of them, for instance by exporting a module that wraps it"
            )
    if not found:
        raise UsageError("the module returns no tensor; let its forward return what it computes")
    return list(zip(distinct([name for name, _ in found], ()), (leaf for _, leaf in found), strict=True))


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what containers hold, with names; None is nothing."""
    entries: Any = ()
    if value is None:
        return
    if isinstance(value, Mapping):
        entries = value.items()
    elif is_dataclass(value) and not isinstance(value, type):
        entries = [(item.name, getattr(value, item.name)) for item in fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        entries = enumerate(value)
    else:
        yield name, value
    for key, entry in entries:
        yield from leaves(entry, f"{name}_{key}" if name else str(key))


def distinct(names: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Return names of which none occurs twice or is taken, numbering those that would."""
    used, found = set(taken), []
    for name in names:
        unique, count = name, 0
        while unique in used:
            count += 1
            unique = f"{name}_{count}"
        used.add(unique)
        found.append(unique)
    return tuple(found)


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Put other tensors in the places of those that `leaves` finds."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return {key: _replaced(entry, tensors) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_replaced(entry, tensors) for entry in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_replaced(entry, tensors) for entry in value)
    return value


def _positional_names(module: nn.Module, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> list[str]:
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        wanted = ", ".join(signature.parameters)
        raise UsageError(
            f"{type(module).__name__}.forward({wanted}) does not take the example inputs: {one_line(error)}"
        ) from None
    named = [entry.name for entry in signature.parameters.values() if entry.kind in _POSITIONAL]
    rest = next((entry.name for entry in signature.parameters.values() if entry.kind is entry.VAR_POSITIONAL), "input")
    return (named + [f"{rest}_{index}" for index in range(len(arguments) - len(named))])[: len(arguments)]
