"""The geometry of operators that slide a window over positions: kernel, strides, dilations, pads, auto_pad."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, leaf


@dataclass(frozen=True)
class Window:
    """A window over the last axes of a tensor.

    Attributes:
        kernel, strides, dilations: by axis. before, after: the padding of each axis (before auto_pad).
        automatic: SAME_UPPER or SAME_LOWER where the padding depends on the tensor's size, else empty.
        ceil: whether a last window that sticks out counts.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    automatic: str
    ceil: bool

    @property
    def symmetric(self) -> bool:
        """Whether torch's own padding can express it."""
        return not self.automatic and self.before == self.after

    def reach(self, axis: int) -> int:
        """Return how many positions lie between the first and the last tap, these included."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def window_of(call: NodeCall, kernel: tuple[int, ...]) -> Window:
    """Return the window that a node's attributes describe."""
    rank = len(kernel)
    mode = str(call.attribute("auto_pad", "NOTSET"))
    pads = call.attribute("pads") if mode == "NOTSET" else None
    given = [int(pad) for pad in (pads or [0] * (2 * rank))]
    return Window(
        kernel,
        tuple(int(stride) for stride in call.attribute("strides") or [1] * rank),
        tuple(int(dilation) for dilation in call.attribute("dilations") or [1] * rank),
        tuple(given[:rank]),
        tuple(given[rank:]),
        mode if mode.startswith("SAME") else "",
        bool(call.attribute("ceil_mode", 0)),
    )


@leaf
def padded(x: Tensor, window: Window, value: float = 0.0) -> Tensor:
    """Pad the last axes explicitly, as a window wants it."""
    pads: list[int] = []
    for axis in reversed(range(len(window.kernel))):
        low, high = window.before[axis], window.after[axis]
        if window.automatic:
            length, stride = x.shape[x.ndim - len(window.kernel) + axis], window.strides[axis]
            total = max((-(-length // stride) - 1) * stride + window.reach(axis) - length, 0)
            low = total // 2 if window.automatic == "SAME_UPPER" else total - total // 2
            high = total - low
        pads += [low, high]
    return F.pad(x, pads, value=value) if any(pads) else x
