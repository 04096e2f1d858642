"""One call from a masked module to a small model."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn.utils import prune

import onnxsqueeze as sq


def test_a_masked_module_comes_out_small_and_the_same() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    mask = torch.ones(10, 6)
    mask[:4] = 0
    prune.custom_from_mask(module[0], "weight", mask)
    example = torch.randn(5, 6)
    result = sq.minimize_module(module, example, round_to=1)
    sizes = sorted(tuple(tensor.dims) for tensor in result.model.graph.initializer)
    assert (6, 6) in sizes and (3, 6) in sizes  # six of the ten units are left
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    np.testing.assert_allclose(found, module(example).detach().numpy(), rtol=1e-5, atol=1e-6)  # rounding of float32
    assert prune.is_pruned(module)
