"""Random networks of codes: encoded at random places, of random layers, with units that can go at random."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxsqueeze as sq
from tests.support.extent import part
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import Codes, Form, Tensor, in_operators, outputs

KINDS = ("live", "live", "live", "dead", "zero", "const", "off")
FORMS = [
    Form(np.int8, np.uint8),
    Form(np.int8, np.uint8, per_channel=True),
    Form(np.int8, np.int8, shifted=True),
    Form(np.uint8, np.uint8, shifted=True),
]


class Random(Codes):
    """A network whose next node is chosen at random."""

    def draw(self) -> np.ndarray[tuple[int, ...], np.dtype[np.str_]]:
        """Return kinds of units, one of them live."""
        kinds = self.random.choice(KINDS, self.random.integers(3, 12))
        kinds[0] = "live"
        return self.random.permutation(kinds)

    def grow(self, x: Tensor, earlier: list[Tensor]) -> Tensor:
        """Add something behind a tensor of images [N, C, 6, 6]."""
        choice = self.random.choice(["conv", "conv", "padded", "depthwise", "add", "concat", "pool", "curve", "plain"])
        if choice == "conv":
            return self.layer("Conv", x, self.draw(), (1, 1), bias=bool(self.random.integers(2)))
        if choice == "padded":
            return self.layer("Conv", x, self.draw(), (3, 3), pads=[1, 1, 1, 1], relu=bool(self.random.integers(2)))
        if choice == "depthwise":
            kinds = np.where(self.random.random(len(x.kinds)) < 0.3, "zero", "live")
            return self.layer("Conv", x, kinds, (3, 3), group=len(kinds), pads=[1, 1, 1, 1])
        if choice == "pool":
            pooled = self.add("MaxPool", x.name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            return Tensor(pooled, x.scale, x.kinds) if self.random.integers(2) else self.coded(pooled, x.kinds)
        if choice == "curve":
            return self.coded(self.add(str(self.random.choice(["Sigmoid", "LeakyRelu", "Tanh"])), x.name), x.kinds)
        if choice == "plain":  # real numbers from here on, until somebody encodes them
            return Tensor(self.add("Relu", x.name), x.scale, x.kinds)
        other = earlier[self.random.integers(len(earlier))]
        if choice == "add":
            if len(other.kinds) != len(x.kinds):
                other = self.layer("Conv", other, self.random.permutation(x.kinds), (1, 1))
            return self.coded(self.add("Add", x.name, other.name), np.full(len(x.kinds), "live"))
        joined = self.add("Concat", x.name, other.name, axis=1)
        return self.coded(joined, np.concatenate([x.kinds, other.kinds]))

    def network(self, length: int) -> onnx.ModelProto:
        """Return a model of some nodes, that ends in a few logits."""
        tensors = [self.input("N", 3, 6, 6)]
        for _ in range(length):
            tensors.append(self.grow(tensors[-1], tensors))
        pooled = self.coded(self.add("GlobalAveragePool", tensors[-1].name), tensors[-1].kinds)
        flat = Tensor(self.add("Flatten", pooled.name), pooled.scale, pooled.kinds)
        return self.model(self.layer("Gemm", flat, np.full(4, "live"), relu=False).name)


TIES = 0.05
"""The share of outputs that may differ: a sum of reals right between two codes is rounded either way."""


def check(model: onnx.ModelProto) -> None:
    """Minimize; compare in integers and, with optimizations off, in reals, which add up in another order."""
    with files_of_any_length():
        result = sq.minimize(model, round_to=1, verify=False)
        again = sq.minimize(result.model, round_to=1, verify=False)
    onnx.checker.check_model(result.model, full_check=True)
    x = np.random.default_rng(7).standard_normal((64, 3, 6, 6)).astype("f")
    for optimized in (True, False):
        before, after = (outputs(each, {"x": x}, optimized)[0] for each in (model, result.model))
        assert before.shape == after.shape
        assert np.mean(before != after) <= TIES
    assert again.report.weights_after <= result.report.weights_after


@pytest.mark.parametrize("operators", [False, True])
@settings(max_examples=part(40), deadline=None)
@given(seed=st.integers(0, 2**20), form=st.sampled_from(FORMS), length=st.integers(1, 7))
def test_random_networks(operators: bool, seed: int, form: Form, length: int) -> None:
    net = Random(form, seed)
    model = net.network(length)
    check(in_operators(model) if operators else model)
