"""What masked weights gave on average goes on as a bias, so that only what varied is lost."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from onnxsqueeze.training.criteria.evidence import Evidence, spread
from onnxsqueeze.units.weight_uses import Use


def fold_means(evidence: Evidence, going: Mapping[str, Tensor]) -> dict[str, int]:
    """Add the mean of what masked weights give, sum of w E(x), to the biases of their layers; set no masks.

    At the border of an image that a convolution pads with zeros the mean is that of the inside.

    Args:
        evidence: of the module before the masks are set. going: for each weight which elements are masked now.

    Returns:
        for each weight how many layers took up its mean; 0 for layers without a bias of their own.
    """
    folded = dict.fromkeys(going, 0)
    for name, mask in going.items():
        lost = torch.where(mask, evidence.weight(name), 0.0).double()
        for use in evidence.uses[name]:
            if use.bias and bool(mask.any()):
                _fold(evidence, use, lost)
                folded[name] += 1
    return folded


def _fold(evidence: Evidence, use: Use, lost: Tensor) -> None:
    given = (lost * spread(evidence.moments[use.key].mean, use)).flatten()
    places = torch.from_numpy(use.written).to(given.device).flatten()
    read = places >= 0
    channels = use.linear.groups * use.linear.matrix.shape[1]
    shift = given.new_zeros(channels).index_add_(0, places[read], given[read])
    shift *= use.linear.scale / use.linear.bias_scale
    bias = evidence.module.initializers[use.bias]
    with torch.no_grad():
        bias.add_(shift.view(bias.shape).to(bias))
