"""CompensatedLayerNorm, the function that this project writes for a LayerNormalization which lost channels."""

from __future__ import annotations

from torch import Tensor

from onnxsqueeze.model.compensated_function import DOMAIN, NAME
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering
from onnxsqueeze.training.modules import compensated_layer_norm as module


@leaf
def compensated_layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor, width: int, epsilon: float, total: float, deviations: float
) -> Tensor:
    """Normalize the last axis with the statistics that it has together with constants that were removed."""
    return module.compensated_layer_norm(x, scale, bias, width, epsilon, total, deviations)


@lowering(NAME, domain=DOMAIN)
def _compensated_layer_norm(call: NodeCall) -> Result:
    width = int(call.attribute("width"))
    numbers = (float(call.attribute(key)) for key in ("epsilon", "sum", "squared_deviations"))
    return compensated_layer_norm(call.tensor(0), call.tensor(1), call.tensor(2), width, *numbers)
