"""Tensors in a tree of modules, each under the dotted name that it has in the file."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


class Container(nn.Module):
    """A node of the tree. It computes nothing."""

    def forward(self) -> None:
        """Not to be called.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a part of an OnnxModule holds parameters and cannot be run on its own")


@dataclass
class Slot:
    """A place in the tree: the container, and the name of the tensor in it."""

    container: nn.Module
    name: str
    path: str

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer that stands there now."""
        found: Tensor | None = self.container._parameters.get(self.name)
        if found is None:
            found = self.container._buffers.get(self.name)
        return getattr(self.container, self.name) if found is None else found  # with a parametrization of torch's


def place(root: nn.Module, name: str, tensor: Tensor, persistent: bool = True) -> Slot:
    """Register a parameter or a buffer under a dotted name, changed only where that is taken or no name in Python."""
    *parents, last = [_plain(part) for part in name.split(".")]
    container, path = root, []
    for part in parents:
        part = _free(part, lambda key, where=container: key in where._parameters or key in where._buffers)  # type: ignore[misc]
        path.append(part)
        if part not in container._modules:
            container._modules[part] = Container()  # not add_module, which refuses "model", an attribute of ours
        child = container._modules[part]
        assert child is not None
        container = child
    last = _free(last, lambda key: key in {**container._parameters, **container._buffers, **container._modules})
    path.append(last)
    if isinstance(tensor, nn.Parameter):
        container._parameters[last] = tensor
    else:
        container._buffers[last] = tensor
        if not persistent:
            container._non_persistent_buffers_set.add(last)
    return Slot(container, last, ".".join(path))


def _plain(part: str) -> str:
    """Return a part of a name without what would mislead a reader of names."""
    plain = re.sub(r"[\s\"'\\]", "_", part) or "_"
    return plain + "_" if keyword.iskeyword(plain) else plain


def _free(name: str, taken: Callable[[str], bool]) -> str:
    while taken(name):
        name += "_"
    return name
