"""From scores to masks: the elements with the lowest scores go, over all tensors or in each of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.criteria.registry import Ranking


def kept(
    scores: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    keep: int,
    ranking: Ranking,
    floor: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return masks, True for what stays, that leave ``keep`` elements.

    Args:
        scores: of each element. alive: which elements may stay; the others are gone already, whatever their score.
        keep: how many stay in all; more if the floors demand it, fewer if fewer are alive.
        ranking: "global": one ranking of all elements; "layer": each tensor keeps the same share of those alive.
        floor: the share of each tensor's elements that stays at least, one element for any share above 0.
        generator: decides between equal scores at the border.

    Raises:
        UsageError: when a score is NaN, or there is none.
    """
    if not scores:
        raise UsageError("no weight of a linear layer can be scored here; choose criterion='units'")
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise UsageError(f"the criterion gives NaN for elements of {name}; check the criterion and the batches")
    floors = {
        name: min(int(mask.sum()), ceil(floor * mask.numel())) if floor > 0 else 0 for name, mask in alive.items()
    }
    counts = {name: int(mask.sum()) for name, mask in alive.items()}
    keep = max(sum(floors.values()), min(keep, sum(counts.values())))
    if ranking == "layer":
        shares = _shares(counts, floors, keep)
        return {name: highest(scores[name], alive[name], shares[name], generator) for name in scores}
    firm = {name: highest(scores[name], alive[name], floors[name], generator) for name in scores}
    rest = highest(
        torch.cat([scores[name].flatten() for name in scores]),
        torch.cat([(alive[name] & ~firm[name]).flatten() for name in scores]),
        keep - sum(floors.values()),
        generator,
    )
    parts = torch.split(rest, [scores[name].numel() for name in scores])
    return {name: firm[name] | part.view(firm[name].shape) for name, part in zip(scores, parts, strict=True)}


def highest(scores: Tensor, alive: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """Return a mask of the ``keep`` elements with the highest scores of those alive; chance decides between equals."""
    values = scores[alive]
    gone = values.numel() - keep
    if gone <= 0 or keep <= 0:
        return alive.clone() if keep > 0 else torch.zeros_like(alive)
    border = values.kthvalue(gone).values  # the highest score that goes
    stays = values > border
    missing = keep - int(stays.sum())
    if missing:
        equal = (values == border).nonzero().squeeze(1)
        drawn = torch.randperm(equal.numel(), generator=generator)[:missing]
        stays[equal[drawn.to(equal.device)]] = True
    mask = torch.zeros_like(alive)
    mask[alive] = stays
    return mask


def _shares(counts: Mapping[str, int], floors: Mapping[str, int], keep: int) -> dict[str, int]:
    """Return how many elements each tensor keeps: one share of all, rounded by largest remainders, above the floors."""
    alive = sum(counts.values())
    exact = {name: max(floors[name], count * keep / alive if alive else 0.0) for name, count in counts.items()}
    found = {name: int(value) for name, value in exact.items()}
    most = sorted(exact, key=lambda name: found[name] - exact[name])
    for name in most[: max(0, keep - sum(found.values()))]:
        found[name] = min(counts[name], found[name] + 1)
    return found
