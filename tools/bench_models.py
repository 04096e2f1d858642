"""Masked and planted networks with random weights, exported once, for tools/bench_minimize.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import masks
import networks
import torch
from exporting import export
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A network to benchmark.

    Attributes:
        build: makes it with fresh random weights, at a scale of its widths where it has one.
        image: shape of one input.
        planted_scale: width of the small network that is planted in it, or None.
    """

    build: Callable[[float], nn.Module]
    image: tuple[int, ...]
    planted_scale: float | None = None


ARCHITECTURES = {
    "mlp": Architecture(lambda scale: networks.mlp((round(2048 * scale), round(1024 * scale))), (1, 28, 28), 0.25),
    "vgg16": Architecture(networks.vgg16, (3, 32, 32), 0.5),
    "resnet50": Architecture(networks.resnet50, (3, 224, 224), 0.5),
    "mobilenet": Architecture(lambda _: networks.mobilenet_v2(), (3, 224, 224)),
    "efficientnet": Architecture(lambda _: networks.efficientnet(), (3, 224, 224)),
}


def rows(network: nn.Module, share: float) -> masks.Masks:
    """Zero the incoming weights of a share of the units of every axis, in all layers that write it."""
    units = {name: torch.randperm(axis.size)[: round(share * axis.size)] for name, axis in masks.axes(network).items()}
    return masks.without_rows(network, units)


VARIANTS: dict[str, Callable[[nn.Module], masks.Masks]] = {
    "rows50": lambda network: rows(network, 0.5),
    "scattered80": lambda network: masks.smallest(network, 0.8),
    "scattered95": lambda network: masks.smallest(network, 0.95),
}


def fresh(architecture: Architecture, scale: float, generator: torch.Generator) -> nn.Module:
    """A network whose BatchNorm statistics, shifts and biases are as spread as those of a trained one."""
    network = architecture.build(scale)
    masks.randomize_norms(network, generator)
    return network


def masked_file(cache: Path, name: str, variant: str) -> Path:
    """Export an architecture under a mask, unless the cache has it already."""
    path = cache / f"{name}-{variant}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        architecture = ARCHITECTURES[name]
        network = fresh(architecture, 1.0, torch.Generator().manual_seed(0))
        masks.apply(network, VARIANTS[variant](network))
        _export(network, path, architecture.image)
    return path


def planted_files(cache: Path, name: str) -> tuple[Path, Path]:
    """Export a small dense network, and the wide one in which it is planted.

    Returns:
        The files of the small network and of the wide one.
    """
    small_path, wide_path = cache / f"{name}-small.onnx", cache / f"{name}-planted.onnx"
    if not (small_path.exists() and wide_path.exists()):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        architecture = ARCHITECTURES[name]
        assert architecture.planted_scale is not None
        small = fresh(architecture, architecture.planted_scale, generator)
        wide = fresh(architecture, 1.0, generator)
        masks.plant(small, wide, generator)
        _export(small, small_path, architecture.image)
        _export(wide, wide_path, architecture.image)
    return small_path, wide_path


def _export(network: nn.Module, path: Path, image: tuple[int, ...]) -> None:
    """Write through a temporary name: an interrupted export never looks like a cached one."""
    unfinished = path.with_suffix(".part")
    export(network, unfinished, image)
    unfinished.replace(path)
