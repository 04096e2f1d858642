"""Masked and planted networks with random weights, exported once, for bench_minimize.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tools.models import masks, networks
from tools.models.exporting import export
from tools.models.transformer_networks import bert_base, convnext_tiny


@dataclass(frozen=True)
class Architecture:
    """A network to benchmark.

    Attributes:
        build: makes it with fresh random weights.
        image: shape of one input.
        planted: by name, makes a small network to be planted in it.
        tokens: the size of the vocabulary where the input is token ids, else 0.
    """

    build: Callable[[], nn.Module]
    image: tuple[int, ...]
    planted: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    tokens: int = 0


def _mlp(scale: float) -> nn.Module:
    return networks.mlp((round(2048 * scale), round(1024 * scale)))


ARCHITECTURES = {
    "mlp": Architecture(partial(_mlp, 1.0), (1, 28, 28), {"planted": partial(_mlp, 0.25)}),
    "vgg16": Architecture(networks.vgg16, (3, 32, 32), {"planted": partial(networks.vgg16, 0.5)}),
    "resnet50": Architecture(networks.resnet50, (3, 224, 224), {"planted": partial(networks.resnet50, 0.5)}),
    "mobilenet": Architecture(networks.mobilenet_v2, (3, 224, 224)),
    "efficientnet": Architecture(networks.efficientnet, (3, 224, 224)),
    "convnext": Architecture(
        convnext_tiny,
        (3, 224, 224),
        {"planted": partial(convnext_tiny, inner=0.5), "narrowed": partial(convnext_tiny, inner=0.5, stream=0.5)},
    ),
    "bert": Architecture(bert_base, (128,), {"planted": partial(bert_base, inner=0.5)}, tokens=30522),
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


def fresh(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """A network whose BatchNorm statistics, shifts and biases are as spread as those of a trained one."""
    network = build()
    masks.randomize_norms(network, generator)
    return network


def masked_file(cache: Path, name: str, variant: str) -> Path:
    """Export an architecture under a mask, unless the cache has it already."""
    path = cache / f"{name}-{variant}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        architecture = ARCHITECTURES[name]
        network = fresh(architecture.build, torch.Generator().manual_seed(0))
        masks.apply(network, VARIANTS[variant](network))
        _export(network, path, architecture)
    return path


def planted_files(cache: Path, name: str, planted: str) -> tuple[Path, Path]:
    """Export a small dense network, and the wide one in which it is planted.

    Returns:
        The files of the small network and of the wide one.
    """
    small_path, wide_path = cache / f"{name}-{planted}-small.onnx", cache / f"{name}-{planted}.onnx"
    if not (small_path.exists() and wide_path.exists()):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        architecture = ARCHITECTURES[name]
        small, wide = fresh(architecture.planted[planted], generator), fresh(architecture.build, generator)
        masks.plant(small, wide, generator)
        _export(small, small_path, architecture)
        _export(wide, wide_path, architecture)
    return small_path, wide_path


def _export(network: nn.Module, path: Path, architecture: Architecture) -> None:
    """Write through a temporary name: an interrupted export never looks like a cached one."""
    unfinished = path.with_suffix(".part")
    export(network, unfinished, architecture.image, tokens=bool(architecture.tokens))
    unfinished.replace(path)
