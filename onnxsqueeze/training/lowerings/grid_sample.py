"""GridSample, by torch's own function where that gives the same."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.registry import NodeCall, lowering

_MODES = {
    "linear": "bilinear",
    "cubic": "bicubic",
}  # before opset 20 they were named as in torch
_IMAGE, _VOLUME = 4, 5  # ranks


@lowering("GridSample", since=16)
def grid_sample(call: NodeCall) -> Tensor:
    """The image [N, C, *space] at the places in the grid [N, *places, axes], from -1 to 1 along each axis.

    Raises:
        UsageError: for images that torch does not sample: of another rank, or by cubic interpolation of a volume.
    """
    given = str(call.attribute("mode", "linear"))
    mode, rank = _MODES.get(given, given), call.rank(0)
    if rank not in (_IMAGE, _VOLUME) or (rank == _VOLUME and mode == "bicubic"):
        raise UsageError(f"node '{call.node.label}': {given} GridSample of rank {rank} cannot be trained")
    padding, aligned = str(call.attribute("padding_mode", "zeros")), bool(call.attribute("align_corners", 0))
    return F.grid_sample(call.tensor(0), call.tensor(1), mode, padding, aligned)
