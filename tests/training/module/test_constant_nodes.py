"""Weights in Constant nodes are parameters, and are written back as nodes."""

from __future__ import annotations

import numpy as np
import torch

from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training.module import from_onnx
from tests.model.test_constant_nodes import network
from tests.support.planted.checks import run


def test_they_are_trained_and_come_back() -> None:
    model = network(512, True)
    module = from_onnx(model)
    assert set(module.initializers) == {"w1", "w2"}
    x = torch.randn(2, 16)
    np.testing.assert_allclose(module(x).detach(), run(model, {"x": x.numpy()})[0], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        module.initializers["w2"].mul_(2)
    written = to_proto(module.write_back())
    assert not written.graph.initializer
    assert [node.op_type for node in written.graph.node].count("Constant") == 2
    np.testing.assert_allclose(run(written, {"x": x.numpy()})[0], module(x).detach(), rtol=1e-4, atol=1e-4)
