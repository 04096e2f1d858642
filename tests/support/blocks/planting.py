"""Plant removable units in a torch network whose layers say which axes they read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Sizes = Mapping[str, int]
Build = Callable[[Sizes], nn.Module]

ZERO, EQUAL, DIFFERENT, DEAD, FOLLOWS = "zero", "equal", "different", "dead", "follows"


@dataclass(frozen=True)
class Axis:
    """Units that several layers of a network share.

    Attributes:
        size: how many there are in the small network, in each row.
        rows: an axis whose every unit (a head) has as many units of this one; none for one row.
        alike: the same places leave in every row.
        paired: they leave in pairs, one in each half of the row (rotary dims).
    """

    size: int
    rows: str = ""
    alike: bool = False
    paired: bool = False


@dataclass(frozen=True)
class Spare:
    """Units that the wide network has in excess, in each row of an axis.

    Attributes:
        count: how many.
        kind: DEAD (nothing reads them), constants (ZERO, EQUAL or all DIFFERENT), or FOLLOWS: they leave because those
            of another axis do.
        read: whether the layers behind have weights for the constants.
        stay: how many of them the minimized network has to keep, to stand for all.
    """

    count: int
    kind: str = ZERO
    read: bool = True
    stay: int = 0


Axes = Mapping[str, Axis]
Spares = Mapping[str, Spare]


def tag(module: nn.Module, reads: str = "", writes: str = "", *, parts: int = 1, quiet: bool = False) -> nn.Module:
    """Note the axes of a layer.

    Args:
        module: the layer, or a norm or a table that writes into a stream.
        reads: the axis of its inputs.
        writes: the axis of its outputs, in ``parts`` runs of equal length.
        parts: how many runs.
        quiet: its constants are zero whatever those of the axis are: a zero-padded convolution reads them.
    """
    module.reads, module.writes, module.parts, module.quiet = reads, writes, parts, quiet  # type: ignore[assignment]
    return module


def linear(sizes: Sizes, reads: str, writes: str, bias: bool = True) -> nn.Module:
    """A fully-connected layer from one axis to another."""
    return tag(nn.Linear(sizes[reads], sizes[writes], bias=bias), reads, writes)


def plant(build: Build, axes: Axes, spares: Spares, seed: int = 0) -> nn.Module:
    """Make a network with units in excess."""
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes_of(axes, {name: spare.count for name, spare in spares.items()})
    network = build(sizes).eval()
    spread(network, generator)
    with torch.no_grad():
        for name, spare in spares.items():
            if spare.kind != FOLLOWS:
                rows = sizes[axes[name].rows] if axes[name].rows else 1
                for axis, units in _below(axes, sizes, name, _places(axes[name], spare.count, rows, generator)):
                    _remove(network, axis, spare, units, generator)
    return network


def sizes_of(axes: Axes, more: Sizes) -> dict[str, int]:
    """Return the length of each axis, all of its rows together, with so many units more in each row."""
    found: dict[str, int] = {}
    for name, axis in axes.items():  # rows come before what they are the rows of
        found[name] = (axis.size + more.get(name, 0)) * (found[axis.rows] if axis.rows else 1)
    return found


def _below(axes: Axes, sizes: Sizes, name: str, gone: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield units of an axis that go, and with them all of those that are theirs in other axes."""
    yield name, gone
    for other, axis in axes.items():
        if axis.rows == name:
            each = sizes[other] // sizes[name]
            yield from _below(axes, sizes, other, (gone[:, None] * each + torch.arange(each)).ravel())


def _places(axis: Axis, count: int, rows: int, generator: torch.Generator) -> Tensor:
    """Choose which units go: ``count`` in each row."""
    width = axis.size + count
    chosen = [torch.randperm(width // (1 + axis.paired), generator=generator) for _ in range(1 if axis.alike else rows)]
    chosen = [order[: count // (1 + axis.paired)] for order in chosen] * (rows if axis.alike else 1)
    if axis.paired:
        chosen = [torch.cat([order, order + width // 2]) for order in chosen]
    return torch.cat([order + row * width for row, order in enumerate(chosen)])


@torch.no_grad()
def spread(network: nn.Module, generator: torch.Generator) -> None:
    """Give weights, biases, scales and tables the spread of trained ones; none of them is zero."""
    for module in network.modules():
        for tensor in module.parameters(recurse=False):
            if tensor.dim() > 1:
                fan_in = 4.0 if isinstance(module, nn.Embedding) else tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
            else:
                tensor.copy_(_away_from_zero(tensor.numel(), generator))


def _away_from_zero(count: int, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    return signs * (0.2 + 0.5 * torch.rand(count, generator=generator))


def _remove(network: nn.Module, axis: str, spare: Spare, gone: Tensor, generator: torch.Generator) -> None:
    """Make the units at ``gone`` removable."""
    constant = 0.4
    for module in network.modules():
        if getattr(module, "writes", None) == axis and spare.kind != DEAD:
            values = _away_from_zero(len(gone), generator) if spare.kind == DIFFERENT else torch.tensor(constant)
            silent = module.quiet or spare.kind == ZERO
            for part in range(int(module.parts)):  # type: ignore[call-overload]
                _silence(module, gone, part, torch.tensor(0.0) if silent else values)
            constant = constant if module.quiet else 0.0  # one of several writers of a stream gives the equal constants
        if getattr(module, "reads", None) == axis and (spare.kind == DEAD or not spare.read):
            module.weight[:, gone] = 0  # type: ignore[index]


def _silence(module: nn.Module, units: Tensor, part: int, constants: Tensor) -> None:
    """Take the incoming weights of units in one of the runs that a layer writes, and give them constants."""
    if isinstance(module, nn.Embedding):
        module.weight[:, units] = constants
        return
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    places = units + part * (len(weight) // int(module.parts))  # type: ignore[call-overload]
    if not (isinstance(module, nn.Conv2d) and module.groups > 1):  # what a depthwise convolution reads is gone already
        weight[places] = 0
    if bias is not None:
        bias[places] = constants
