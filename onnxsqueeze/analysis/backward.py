"""The backward sweep's answer: which elements the outputs depend on (liveness)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsqueeze.abstract.compact import Bools, fit_all, fit_any
from onnxsqueeze.coupling.keep_reason import Why
from onnxsqueeze.rules.contract import Demand


@dataclass
class Liveness:
    """The backward sweep's answer.

    Attributes:
        live: by tensor, the elements that something depends on (compact, as its classes are).
        required: those of them that some reader cannot do without, unless they are constant.
        holds: elements that stay although they are constant, and why.
    """

    live: dict[str, Bools]
    required: dict[str, Bools]
    holds: list[tuple[str, Bools, Why]]

    def add(self, name: str, demand: Demand, shape: tuple[int, ...], required: bool = True, node: str = "") -> None:
        """Join the demand of ``node`` with others'; it is not ``required`` if it only passes on what others fold."""
        live = needed = _fitted(demand.live, shape)
        if not required:
            needed = np.zeros(shape, dtype=bool)
        elif demand.folds is not None:
            needed = live & ~fit_all(demand.folds, shape)
        apart = live is not needed or self.live.get(name) is not self.required.get(name)
        self.live[name] = self.live[name] | live if name in self.live else live
        if apart:
            self.required[name] = self.required[name] | needed if name in self.required else needed
        else:
            self.required[name] = self.live[name]
        if required and demand.hold is not None and (hold := _fitted(demand.hold, shape)).any():
            self.holds.append((name, hold, Why(demand.reason, demand.detail, node)))


def _fitted(mask: Bools, shape: tuple[int, ...]) -> Bools:
    return fit_any(mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape), shape)
