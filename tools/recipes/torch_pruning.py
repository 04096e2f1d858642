"""What Torch-Pruning leaves of a module, and how much of it a pruner has to take for so many elements to be left."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
_BATCH = 256
_ONE_BY_ONE = 256  # samples that Hessian takes a gradient of, each


def torch_pruned(
    module: nn.Module, images: Tensor, labels: Tensor, importance: str, everywhere: bool, share: float
) -> nn.Module:
    """Return a copy of a module without a share of its channels; the module is left as it is.

    Args:
        module: gives scores of 10 classes, which stay. images, labels: what Taylor and Hessian take gradients of.
        importance: "magnitude", "Taylor" or "Hessian". everywhere: whether one threshold holds for all layers.
        share: of the channels.
    """
    import torch_pruning as tp

    module = copy.deepcopy(module)
    scorer = getattr(tp.importance, f"Group{importance.capitalize()}Importance")()
    pruner = tp.pruner.BasePruner(
        module,
        images[:1],
        importance=scorer,
        pruning_ratio=share,
        global_pruning=everywhere,
        ignored_layers=[own for own in module.modules() if isinstance(own, nn.Linear) and own.out_features == CLASSES],
        num_heads=_heads(module),
        prune_head_dims=True,
    )
    if importance == "Taylor":
        for part, own in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
            F.cross_entropy(module(part), own).backward()
    elif importance == "Hessian":
        for part, own in zip(images[:_ONE_BY_ONE].split(1), labels[:_ONE_BY_ONE].split(1), strict=True):
            module.zero_grad()
            F.cross_entropy(module(part), own).backward()
            scorer.accumulate_grad(module)
    pruner.step()
    module.zero_grad(set_to_none=True)
    return module


def _heads(module: nn.Module) -> dict[nn.Module, int]:
    layers = [layer for layer in module.modules() if hasattr(layer, "queries")]
    return {part: layer.heads for layer in layers for part in (layer.queries, layer.keys, layer.values)}


def smallest_share(make: Callable[[float], int], elements: float, most: float, halvings: int) -> float | None:
    """Return about the smallest share at which no more than so many elements are left; None if there is none.

    Args:
        make: how many elements a share leaves. elements: how many may be. most: the largest share to try.
        halvings: of the interval that the share is in.
    """
    low, high = 0.0, most
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if make(middle) <= elements else (middle, high)
    return high if high < most or make(most) <= elements else None
