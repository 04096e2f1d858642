"""Masks for the networks of networks.py: structured, scattered, held in training, and planted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tools.models.networks import Axis

Masks = dict[str, Tensor]
"""For each masked parameter a float32 tensor of its shape: 1 where a weight stays, 0 where it goes."""


def weights(network: nn.Module) -> Iterator[tuple[str, Tensor, tuple[Axis, ...]]]:
    """Name, value and axes of each matrix or kernel that a mask may touch (BatchNorm and biases are left alone)."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield f"{name}.weight", module.weight.detach(), module.axes  # type: ignore[misc]


def axes(network: nn.Module) -> dict[str, Axis]:
    """Every axis that a layer writes, by name, the logits left out."""
    return {axis[0].name: axis[0] for _, _, axis in weights(network) if axis[0].name != "classes"}


def weakest_units(network: nn.Module, name: str, fraction: float) -> Tensor:
    """Indices of the units of an axis whose incoming weights, over all of its writers, are smallest.

    Returns:
        int64[round(fraction * size)].
    """
    strength = sum(weight.flatten(1).square().sum(1) for _, weight, axis in weights(network) if axis[0].name == name)
    assert isinstance(strength, Tensor)
    return strength.argsort()[: round(fraction * len(strength))]


def without_rows(network: nn.Module, units: Mapping[str, Tensor]) -> Masks:
    """Zero all incoming weights of the given units, in every layer that writes their axis; biases stay."""
    masks = {}
    for name, weight, axis in weights(network):
        if axis[0].name in units:
            masks[name] = torch.ones_like(weight)
            masks[name][units[axis[0].name]] = 0
    return masks


def without_columns(network: nn.Module, units: Mapping[str, Tensor]) -> Masks:
    """Zero all outgoing weights of the given units, in every layer that reads their axis."""
    masks = {}
    for name, weight, axis in weights(network):
        if len(axis) > 1 and axis[1].name in units:
            masks[name] = torch.ones_like(weight)
            masks[name][:, units[axis[1].name]] = 0
    return masks


def smallest(network: nn.Module, fraction: float, among: Masks | None = None) -> Masks:
    """Zero the smallest weights of each layer.

    Args:
        network: the network to mask.
        fraction: share of each layer's weights that goes.
        among: masks that apply already; the share is taken of what they leave.
    """
    masks = {}
    for name, weight, axis in weights(network):
        kept = (among or {}).get(name, torch.ones_like(weight))
        count = int(fraction * kept.sum())
        if axis[0].name == "classes" or count == 0:
            continue
        threshold = weight[kept > 0].abs().kthvalue(count).values
        masks[name] = (weight.abs() > threshold).float()
    return masks


def merged(*several: Masks) -> Masks:
    """What every one of the masks leaves."""
    result: Masks = {}
    for masks in several:
        for name, mask in masks.items():
            result[name] = result[name] * mask if name in result else mask
    return result


@torch.no_grad()
def apply(network: nn.Module, masks: Masks) -> None:
    """Set the masked weights to zero; called after each step of an optimizer, it holds the masks in training."""
    for name, mask in masks.items():
        network.get_parameter(name).mul_(mask)


@torch.no_grad()
def randomize_norms(network: nn.Module, generator: torch.Generator) -> None:
    """Give BatchNorm layers and biases the spread that they have in trained networks; none of them is zero."""

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
            uniform(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            uniform(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            uniform(module.bias, -0.1, 0.1)


@torch.no_grad()
def plant(small: nn.Module, wide: nn.Module, generator: torch.Generator) -> None:
    """Embed a small network at random, permuted places in a wide one of the same architecture.

    What the small network does not fill is of two kinds, half of the units each: *dead* units compute something that
    nobody reads; *constant* units have no incoming weights, a negative bias or BatchNorm shift, and readers with
    non-zero weights; on a normalized axis all are constant. Behind a ReLU the latter are zero, so that the small
    network itself is what an exact minimizer finds: a positive constant would leave one channel more in front of each
    zero-padded convolution.
    """
    sizes = axes(small)
    wide_axes = axes(wide)
    places = {name: _permuted(axis, generator) for name, axis in wide_axes.items()}
    spare = {name: place[sizes[name].size :].reshape(-1, wide_axes[name].block) for name, place in places.items()}
    steps = {name: 1 if axis.normalized else 2 for name, axis in wide_axes.items()}
    constant = {name: place[:: steps[name]].flatten() for name, place in spare.items()}
    dead = {name: place[1::2].flatten() for name, place in spare.items() if not wide_axes[name].normalized}
    filled = {name: place[: sizes[name].size] for name, place in places.items()}
    apply(wide, without_rows(wide, constant))
    apply(wide, without_columns(wide, dead))
    for (_, inner), outer in zip(small.named_modules(), wide.modules(), strict=True):
        axis = getattr(outer, "axes", None)
        if axis is None:
            continue
        index = [filled.get(each.name, torch.arange(each.size)) for each in axis]
        for name, value in inner.state_dict().items():
            target = outer.state_dict()[name]
            if value.dim() == 0:
                target.copy_(value)
                continue
            along = index if name == "weight" else index[:1]
            if name == "bias":
                target[constant.get(axis[0].name, [])] = -target.abs().max().clamp(min=1)
            elif name == "running_mean":
                target[constant.get(axis[0].name, [])] = 0
            if name == "weight" and getattr(outer, "writes", False):
                target[constant[axis[0].name]] = 0  # only so is a channel of a normalised stream a constant
            grid = torch.meshgrid(*along, indexing="ij")
            target[grid] = value


def _permuted(axis: Axis, generator: torch.Generator) -> Tensor:
    """A random order of the channels in which blocks stay together."""
    blocks = torch.randperm(axis.size // axis.block, generator=generator)
    return (blocks[:, None] * axis.block + torch.arange(axis.block)).flatten()
