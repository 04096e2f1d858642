"""What a process of its own is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Emit = Callable[..., None]
"""Tells the process that waits: the names and values of an event, as JSON takes them."""


class Task(Protocol):
    """What is done in a process of its own: one of the above, or something else that can be pickled."""

    def perform(self, emit: Emit) -> None:
        """Do it."""
