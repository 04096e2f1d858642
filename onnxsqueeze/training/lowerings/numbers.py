"""Integer inputs that steer an operator, such as axes and sizes, as numbers."""

from __future__ import annotations

from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, leaf


@leaf
def entries(tensor: Tensor) -> list[int]:
    """Return the entries of a tensor as numbers."""
    found: list[int] = tensor.reshape(-1).tolist()
    return found


def numbers(call: NodeCall, position: int) -> list[int] | None:
    """Return the entries of an integer input, read at run time where not even their number is known before.

    None where the input is absent.
    """
    found = call.numbers(position)
    return entries(call.tensor(position)) if found is None and call.has(position) else found


def optional(call: NodeCall, start: int, end: int) -> list[Tensor | None]:
    """Return the inputs from one position up to another, None where they are absent."""
    return [call.operand(position) for position in range(start, end)]


def required(call: NodeCall, position: int) -> list[int]:
    """Return the entries of an integer input that must be there.

    Raises:
        UsageError: when it is absent.
    """
    found = numbers(call, position)
    return entries(call.tensor(position)) if found is None else found


def number(call: NodeCall, position: int) -> int:
    """Return the first entry of an integer input that must be there.

    Raises:
        UsageError: when it is absent.
    """
    return required(call, position)[0]
