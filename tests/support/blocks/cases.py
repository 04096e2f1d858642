"""Which blocks are tested, in which sizes and on which inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.support.blocks import networks
from tests.support.blocks.planting import DIFFERENT, EQUAL, ZERO, Axes, Axis, Build

STREAM = {"stream": Axis(12), "hidden": Axis(20)}
ATTENTION = STREAM | {"heads": Axis(4), "q": Axis(3, "heads"), "k": Axis(3, "heads"), "v": Axis(3, "heads")}
GROUPED = STREAM | {
    "groups": Axis(2),
    "heads": Axis(2, "groups"),
    "q": Axis(4, "heads", alike=True, paired=True),
    "k": Axis(4, "groups", alike=True, paired=True),
    "v": Axis(3, "groups", alike=True),
    "o": Axis(3, "heads", alike=True),
}

LAYER_NORM = {ZERO: 1, EQUAL: 1, DIFFERENT: 2}
"""Channels that stay to stand for the constants of each kind which left: what a LayerNorm makes of a constant is
linear in two numbers of each row, what it makes of zero in one."""

RMS_NORM = {ZERO: 0, EQUAL: 1, DIFFERENT: 1}
"""An RMSNorm makes multiples of one number in each row of constants, and zero of zero."""


@dataclass(frozen=True)
class Block:
    """A network with what it is fed with.

    Attributes:
        build: makes it in given sizes.
        axes: those of the small network.
        shape: of an input without the batch.
        dynamic: axes of the input with a dynamic size, besides the batch.
        words: the input holds indices of words.
        stay: channels of the stream that stay to stand for those that left, by kind.
    """

    build: Build
    axes: Axes
    shape: tuple[int, ...]
    dynamic: tuple[int, ...] = ()
    words: bool = False
    stay: Mapping[str, int] = field(default_factory=lambda: LAYER_NORM)

    def sample(self, batch: int = 2, extent: int = 9) -> Tensor:
        """Return an input with ``extent`` entries along the dynamic axes."""
        generator = torch.Generator().manual_seed(extent)
        sizes = [batch, *(extent if axis in self.dynamic else size for axis, size in enumerate(self.shape, 1))]
        if self.words:
            return torch.randint(0, networks.VOCABULARY, sizes, generator=generator)
        return torch.randn(sizes, generator=generator)


FEATURES, WORDS = (9, networks.FEATURES), (9,)
BLOCKS = {
    "convnext": Block(networks.ConvNext, STREAM, (3, 32, 32)),
    "swin": Block(networks.Swin, ATTENTION, (8, 8, networks.FEATURES)),
    "prenorm": Block(networks.PreNorm, ATTENTION, FEATURES, (1,)),
    "whisper": Block(networks.Whisper, ATTENTION, (networks.FEATURES, 2 * networks.POSITIONS)),
    "clip": Block(networks.Clip, ATTENTION, FEATURES, (1,)),
    "bert": Block(networks.PostNorm, ATTENTION, WORDS, (1,), words=True),
    "gpt2": Block(networks.Gpt2, ATTENTION, WORDS, (1,), words=True),
    "llama": Block(networks.Llama, GROUPED, WORDS, (1,), words=True, stay=RMS_NORM),
    "t5": Block(networks.T5, ATTENTION, WORDS, (1,), words=True, stay=RMS_NORM),
}
