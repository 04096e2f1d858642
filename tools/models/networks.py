"""The networks of make_models.py and tools/measure/bench_minimize.py, in torch.

Every layer is tagged with the axes that its weights stand on. Layers that name the same :class:`Axis` share its
channels, which is all that masks and planted networks need to know about an architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Axis:
    """Channels that several layers share, as the stream of a residual network.

    Attributes:
        name: the same in networks of the same architecture, whatever their widths.
        size: number of channels.
        normalized: whether a normalisation reads all of them, so that none is dead.
        block: how many neighbours belong together, as the dims of a head.
    """

    name: str
    size: int
    normalized: bool = False
    block: int = 1


IMAGE = Axis("image", 3)
GRAY = Axis("image", 1)


def tagged(module: nn.Module, *axes: Axis) -> nn.Module:
    """Note the axes of ``module.weight``; a bias and BatchNorm statistics stand on the first of them."""
    module.axes = axes  # type: ignore[assignment]
    return module


def linear(source: Axis, target: Axis) -> nn.Module:
    """A fully-connected layer."""
    return tagged(nn.Linear(source.size, target.size), target, source)


def conv_norm(
    source: Axis,
    target: Axis,
    kernel: int,
    stride: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A zero-padded convolution, BatchNorm and an activation; ``source is target`` makes it depthwise."""
    depthwise = source is target
    conv = nn.Conv2d(
        source.size,
        target.size,
        kernel,
        stride,
        padding=kernel // 2,
        groups=target.size if depthwise else 1,
        bias=False,
    )
    axes = (target,) if depthwise else (target, source)
    layers = [tagged(conv, *axes), tagged(nn.BatchNorm2d(target.size), target)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class Residual(nn.Module):
    """``final(body(x) + shortcut(x))``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, final: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.final = body, shortcut, final

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on [batch, channels, height, width]."""
        return self.final(self.body(x) + self.shortcut(x))


class SqueezeExcitation(nn.Module):
    """Channels gated by a function of their own means."""

    def __init__(self, axis: Axis, inner: int) -> None:
        super().__init__()
        middle = Axis(f"{axis.name}.squeeze", inner)
        self.reduce = tagged(nn.Conv2d(axis.size, inner, 1), middle, axis)
        self.expand = tagged(nn.Conv2d(inner, axis.size, 1), Axis(f"{axis.name}.gate", axis.size), middle)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Gate [batch, channels, height, width]."""
        gate = self.activation(self.reduce(nn.functional.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.expand(gate))


def mlp(widths: Sequence[int], pixels: int = 784, classes: int = 10) -> nn.Sequential:
    """Fully-connected layers of the given hidden widths with ReLU between them."""
    axes = [Axis("pixels", pixels), *(Axis(f"hidden{index}", width) for index, width in enumerate(widths))]
    layers: list[nn.Module] = [nn.Flatten()]
    for source, target in zip(axes, axes[1:], strict=False):
        layers += [linear(source, target), nn.ReLU()]
    return nn.Sequential(*layers, linear(axes[-1], Axis("classes", classes)))


def lenet(widths: tuple[int, int, int]) -> nn.Sequential:
    """Two convolutions and two fully-connected layers for 28x28 gray images, no BatchNorm."""
    first, second, hidden = (Axis(f"layer{index}", width) for index, width in enumerate(widths))
    flat = Axis("layer1.pixels", second.size * 4 * 4)
    return nn.Sequential(
        tagged(nn.Conv2d(1, first.size, 5), first, GRAY),
        nn.ReLU(),
        nn.MaxPool2d(2),
        tagged(nn.Conv2d(first.size, second.size, 5), second, first),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        linear(flat, hidden),
        nn.ReLU(),
        linear(hidden, Axis("classes", 10)),
    )


def vgg(plan: Sequence[int | str], image: Axis, hidden: int, positions: int = 1, classes: int = 10) -> nn.Sequential:
    """3x3 convolutions with BatchNorm and ReLU, ``"pool"`` between some of them, then two fully-connected layers.

    Args:
        plan: widths of the convolutions and places of the pools.
        image: the input's channels.
        hidden: width between the two fully-connected layers.
        positions: pixels that are left where the convolutions end.
        classes: number of logits.
    """
    layers: list[nn.Module] = []
    source = image
    for index, step in enumerate(plan):
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            target = Axis(f"conv{index}", step)
            layers.append(conv_norm(source, target, 3))
            source = target
    flat = source if positions == 1 else Axis(f"{source.name}.pixels", source.size * positions)
    middle = Axis("hidden", hidden)
    return nn.Sequential(
        *layers, nn.Flatten(), linear(flat, middle), nn.ReLU(), linear(middle, Axis("classes", classes))
    )


def basic(source: Axis, target: Axis, middle: int, stride: int, name: str) -> Residual:
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""
    inner = Axis(f"{name}.inner", middle)
    body = nn.Sequential(conv_norm(source, inner, 3, stride), conv_norm(inner, target, 3, activation=None))
    return Residual(body, shortcut(source, target, stride), nn.ReLU())


def bottleneck(source: Axis, target: Axis, middle: int, stride: int, name: str) -> Residual:
    """1x1, 3x3 and 1x1 convolutions and a shortcut, projected where the shape changes."""
    first, second = Axis(f"{name}.first", middle), Axis(f"{name}.second", middle)
    body = nn.Sequential(
        conv_norm(source, first, 1),
        conv_norm(first, second, 3, stride),
        conv_norm(second, target, 1, activation=None),
    )
    return Residual(body, shortcut(source, target, stride), nn.ReLU())


def shortcut(source: Axis, target: Axis, stride: int) -> nn.Module:
    """Nothing where the shape stays, else a strided 1x1 convolution with BatchNorm."""
    return nn.Identity() if source is target else conv_norm(source, target, 1, stride, activation=None)


@dataclass(frozen=True)
class Stage:
    """A row of residual blocks on one stream.

    Attributes:
        block: :func:`basic` or :func:`bottleneck`.
        width: channels of the stream.
        middle: channels inside each block.
        depth: number of blocks.
        stride: of the first block.
    """

    block: Callable[[Axis, Axis, int, int, str], Residual]
    width: int
    middle: int
    depth: int
    stride: int = 2


def resnet(stem: nn.Sequential, source: Axis, stages: Sequence[Stage], classes: int) -> nn.Sequential:
    """A stem, stages of residual blocks, global average pooling and a fully-connected layer.

    A stage that is as wide as its source and does not stride goes on with the same stream.
    """
    blocks: list[nn.Module] = []
    for index, stage in enumerate(stages):
        same = stage.width == source.size and stage.stride == 1
        stream = source if same else Axis(f"stage{index}", stage.width)
        for depth in range(stage.depth):
            stride = stage.stride if depth == 0 else 1
            blocks.append(stage.block(source, stream, stage.middle, stride, f"stage{index}.block{depth}"))
            source = stream
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(stem, *blocks, *pool, linear(source, Axis("classes", classes)))


def inverted_residuals(
    plan: Sequence[tuple[int, int, int, int, int]],
    activation: Callable[[], nn.Module],
    squeeze: bool,
    classes: int = 1000,
) -> nn.Sequential:
    """A network of inverted residual blocks on RGB images: 1x1, depthwise, gate if asked for, 1x1.

    Args:
        plan: (expansion, width, depth, stride, kernel) of each stage.
        activation: made for each convolution that has one.
        squeeze: whether the blocks have squeeze-and-excitation.
        classes: number of logits.
    """
    source = Axis("stem", 32)
    layers: list[nn.Module] = [conv_norm(IMAGE, source, 3, 2, activation)]
    for index, (expansion, width, depth, stride, kernel) in enumerate(plan):
        stream = Axis(f"stage{index}", width)
        for block in range(depth):
            hidden = Axis(f"stage{index}.block{block}", source.size * expansion)
            expand = [conv_norm(source, hidden, 1, activation=activation)] if expansion > 1 else []
            inside = hidden if expand else source
            body = nn.Sequential(
                *expand,
                conv_norm(inside, inside, kernel, stride if block == 0 else 1, activation),
                *([SqueezeExcitation(inside, max(1, source.size // 4))] if squeeze else []),
                conv_norm(inside, stream, 1, activation=None),
            )
            layers.append(Residual(body, nn.Identity(), nn.Identity()) if source is stream else body)
            source = stream
    head = Axis("head", 1280)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        *layers, conv_norm(source, head, 1, activation=activation), *pool, linear(head, Axis("classes", classes))
    )


VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")
# (expansion, width, depth, stride, kernel) of each stage
MOBILENET = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
EFFICIENTNET = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def vgg16(scale: float = 1.0) -> nn.Sequential:
    """VGG-16 with BatchNorm for 32x32 images, 15 million weights at scale 1."""
    plan = [step if isinstance(step, str) else round(step * scale) for step in VGG16]
    return vgg(plan, IMAGE, round(512 * scale))


def resnet50(scale: float = 1.0) -> nn.Sequential:
    """ResNet-50 for RGB images, 25 million weights at scale 1."""
    source = Axis("stem", round(64 * scale))
    stem = nn.Sequential(conv_norm(IMAGE, source, 7, 2), nn.MaxPool2d(3, 2, 1))
    stages = [
        Stage(bottleneck, round(4 * width * scale), round(width * scale), depth, 1 if width == 64 else 2)
        for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3))
    ]
    return resnet(stem, source, stages, 1000)


def mobilenet_v2() -> nn.Sequential:
    """MobileNetV2 for RGB images, 3.5 million weights."""
    return inverted_residuals(MOBILENET, nn.ReLU6, squeeze=False)


def efficientnet() -> nn.Sequential:
    """An EfficientNet-B0-like network for RGB images: SiLU and squeeze-and-excitation, 5 million weights."""
    return inverted_residuals(EFFICIENTNET, nn.SiLU, squeeze=True)
