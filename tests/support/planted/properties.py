"""How hypothesis looks for networks that do not have a property, and masks for them."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, settings
from onnx import numpy_helper

PROPERTY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)


def mask(model: onnx.ModelProto, share: float, seed: int) -> None:
    """Set slices along the first and second axis of the weights to zero, some biases, and single weights."""
    random = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype != np.float32 or values.ndim == 0:
            continue
        for axis in range(min(values.ndim, 2)):
            values[(slice(None),) * axis + (random.random(values.shape[axis]) < share * random.random(),)] = 0
        values *= random.random(values.shape) > share * random.random()
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
