"""What counts as left: the cycle aims at it, and a squeeze counts the same."""

from __future__ import annotations

import torch

from onnxsqueeze.training.module import OnnxModule, from_onnx
from onnxsqueeze.training.squeezing.elements_left import elements_left, remaining
from tests.support.training.graphs import perceptron

DENSE = 6 * 8 + 8 * 3 + 11


def network() -> OnnxModule:
    return from_onnx(perceptron((6, 8, 3)))


def test_a_whole_network_lacks_nothing() -> None:
    assert remaining(network()) == {}
    assert elements_left(network()) == DENSE


def test_zeros_of_matrices_and_masks_of_anything_are_gone() -> None:
    module = network()
    with torch.no_grad():
        module.initializers["fc0.weight"][:2] = 0.0
        module.initializers["fc0.bias"][:3] = 0.0
    module.set_masks({"fc0.weight": torch.arange(8)[:, None].expand(8, 6) != 1, "fc1.bias": torch.arange(3) > 0})
    found = remaining(module)
    assert set(found) == {"fc0.weight", "fc1.bias"}, "zeros of a bias are values like others"
    assert torch.equal(found["fc0.weight"].all(1), torch.arange(8) > 1)
    assert elements_left(module) == DENSE - 12 - 1


def test_what_is_wholly_zero_is_still_to_be_trained_unless_a_mask_says_otherwise() -> None:
    module = network()
    with torch.no_grad():
        module.initializers["fc1.weight"].zero_()
    assert remaining(module) == {} and elements_left(module) == DENSE
    module.set_masks({"fc1.weight": torch.zeros(3, 8, dtype=torch.bool)})
    assert elements_left(module) == DENSE - 24
