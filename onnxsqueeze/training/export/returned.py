"""What the network that was given returns, so that the one that is trained in its place returns the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

Form = Any
"""Plain values for JSON: "tensor", None, or a kind of container with the forms of what it holds."""


class Outputs(dict[str, Any]):
    """Named outputs: by key, as attributes, and by position, as dataclasses and mappings of models have them."""

    def __getattr__(self, name: str) -> Any:
        """Return an output by its name."""
        if name in self:
            return self[name]
        raise AttributeError(f"there is no output {name!r}; the network returns {', '.join(self)}")

    def __getitem__(self, key: str | int | slice) -> Any:
        """Return an output by its name, or by its position among those that are not None."""
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the outputs that are not None."""
        return tuple(value for value in self.values() if value is not None)


def form_of(value: Any) -> Form:
    """Return how a module returns its tensors; in the order in which an export has them."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {"named": [[str(key), form_of(entry)] for key, entry in value.items()]}
    if is_dataclass(value) and not isinstance(value, type):
        return {"named": [[item.name, form_of(getattr(value, item.name))] for item in fields(value)]}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"named": [[name, form_of(entry)] for name, entry in zip(value._fields, value, strict=True)]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [form_of(entry) for entry in value]}
    return "tensor"


def in_form(form: Form, outputs: Tensor | tuple[Tensor, ...]) -> Any:
    """Return outputs, one or several in order, in a form."""
    return _filled(form, iter((outputs,) if isinstance(outputs, Tensor) else outputs))


def _filled(form: Form, outputs: Iterator[Tensor]) -> Any:
    if form is None:
        return None
    if form == "tensor":
        return next(outputs)
    if "named" in form:
        return Outputs((name, _filled(entry, outputs)) for name, entry in form["named"])
    if "list" in form:
        return [_filled(entry, outputs) for entry in form["list"]]
    return tuple(_filled(entry, outputs) for entry in form["tuple"])


def give_back(module: nn.Module, form: Form) -> Any:
    """Let a module return its outputs in a form; return what `remove` of takes that back, None if nothing changes."""
    if form is None or form == "tensor":
        return None
    return module.register_forward_hook(lambda module, inputs, outputs: in_form(form, outputs))


@contextmanager
def returning(module: nn.Module, form: Form) -> Iterator[None]:
    """Let a module return its outputs in a form for a while."""
    handle = give_back(module, form)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
