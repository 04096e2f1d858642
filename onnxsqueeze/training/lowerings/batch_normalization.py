"""BatchNormalization with live statistics: of the batch in training mode, where it moves the averages along."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, lowering


@lowering("BatchNormalization", since=7, statistics=(3, 4))
def batch_normalization(call: NodeCall) -> Tensor:
    """torch's own, which keeps the share 1 - momentum of a new statistic where ONNX keeps momentum of the old."""
    momentum = round(1.0 - float(call.attribute("momentum", 0.9)), 6)  # the attribute is a rounded float32
    x, scale, bias, mean, variance = call.tensors()
    epsilon = float(call.attribute("epsilon", 1e-5))
    return F.batch_norm(x, mean, variance, scale, bias, call.training, momentum, epsilon)
