"""Networks for sequences and images of patches as the older exporter writes them: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from onnxsqueeze.training.module import from_onnx
from tests.support.drawing import Array, Draw
from tests.support.exports.sequences import WORDS, Language, Patches, Recurrent, exported
from tests.training.lowerings.checking import assert_same_outputs, computed

D = Draw(10)

WAYS = ("older", "older-12")
UNREAD = ("patches.weight", "patches.bias")
"""Parameters of what the output does not depend on: of a class token alone."""
CASES: list[tuple[str, Callable[[], onnx.ModelProto], Callable[[int], Array]]] = [
    *((f"language-{w}", lambda w=w: exported(Language(True), w), lambda n: D.integers(0, WORDS, n, 5)) for w in WAYS),
    *((f"patches-{w}", lambda w=w: exported(Patches(), w, axes=1), lambda n: D.floats(n, 3, 8, 8)) for w in WAYS),
    *(
        (f"{kind}-older", lambda kind=kind: exported(Recurrent(kind, 2, True), "older"), lambda n: D.floats(n, 5, 5))
        for kind in ("LSTM", "GRU", "RNN")
    ),
]


@pytest.mark.parametrize(("build", "feed"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_network(build: Callable[[], onnx.ModelProto], feed: Callable[[int], Array]) -> None:
    model = build()
    (name,) = (value.name for value in model.graph.input)
    module = from_onnx(model)
    for batch in (2, 3):
        assert_same_outputs(module, model, {name: feed(batch)})
    (found,) = computed(module, {name: feed(4)})
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal(found.shape)).float()
    gradients = torch.autograd.grad((found * weight).sum(), list(module.initializers.values()), allow_unused=True)
    for parameter, gradient in zip(module.initializers, gradients, strict=True):
        assert gradient is not None and torch.isfinite(gradient).all(), parameter
        assert bool(gradient.any()) != (parameter in UNREAD), parameter
