"""Which channel each stored element reads and writes, through whatever stands between it and its layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from onnxsqueeze.training.criteria import CriterionContext, Evidence
from onnxsqueeze.training.criteria.folding import fold_means
from onnxsqueeze.training.module import from_onnx
from onnxsqueeze.units.weight_uses import linear_uses
from tests.support.training.graphs import Array, graph, node

RANDOM = np.random.default_rng(5)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def evidence(model: onnx.ModelProto, batch: Tensor) -> Evidence:
    return Evidence(from_onnx(model), [batch], torch.Generator())


def square(found: Evidence, name: str = "w") -> Tensor:
    return CriterionContext(name, found).input_norm.square()


DENSE: Mapping[str, tuple[Sequence[onnx.NodeProto], Mapping[str, Array], tuple[int, ...]]] = {
    "gemm": ([node("Gemm", "x w", "y")], {"w": floats(6, 4)}, (1, 0)),
    "gemm transposed": ([node("Gemm", "x w", "y", transB=1)], {"w": floats(4, 6)}, (0, 1)),
    "matmul": ([node("MatMul", "x w", "y")], {"w": floats(6, 4)}, (1, 0)),
    "transpose": ([node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")], {"w": floats(4, 6)}, (0, 1)),
    "identity": ([node("Identity", "w", "t"), node("MatMul", "x t", "y")], {"w": floats(6, 4)}, (1, 0)),
}


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_layer(name: str) -> None:
    nodes, weights, (out, inner) = DENSE[name]
    batch = torch.from_numpy(floats(10, 6))
    measured = square(evidence(graph(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 4]}), batch))
    shape = [1, 1]
    shape[inner] = 6
    expected = batch.square().mean(0).view(shape).expand(weights["w"].shape)
    torch.testing.assert_close(measured, expected)
    assert weights["w"].shape[out] == 4


def test_a_weight_stored_with_more_axes() -> None:
    shape = np.array([6, 4], np.int64)
    nodes = [node("Reshape", "w shape", "t"), node("MatMul", "x t", "y")]
    batch = torch.from_numpy(floats(10, 6))
    model = graph(nodes, {"w": floats(2, 3, 4), "shape": shape}, {"x": ["n", 6]}, {"y": ["n", 4]})
    expected = batch.square().mean(0).view(2, 3, 1).expand(2, 3, 4)
    torch.testing.assert_close(square(evidence(model, batch)), expected)


def test_parts_of_one_weight_add_up() -> None:
    """Rows 0 to 2 read one tensor, rows 2 to 5 another: row 5 is read by none, and row 2 by both."""
    numbers = {"zero": 0, "two": 2, "three": 3, "five": 5}
    nodes = [
        node("Slice", "w zero three zero", "a"),
        node("Slice", "w two five zero", "b"),
        node("Gemm", "x a", "left", transB=1),
        node("Gemm", "z b", "right", transB=1),
        node("Add", "left right", "y"),
    ]
    weights = {"w": floats(6, 4)} | {name: np.array([value], np.int64) for name, value in numbers.items()}
    model = graph(nodes, weights, {"x": ["n", 4], "z": ["n", 4]}, {"y": ["n", 3]})
    one, two = torch.from_numpy(floats(10, 4)), torch.from_numpy(floats(10, 4))
    found = Evidence(from_onnx(model), [(one, two)], torch.Generator())
    first, second = one.square().mean(0), two.square().mean(0)
    expected = torch.stack([first, first, first + second, second, second, torch.zeros(4)])
    torch.testing.assert_close(square(found), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_with_groups(groups: int) -> None:
    weight = floats(8, 4 // groups, 3, 3)
    nodes = [node("Conv", "x w", "y", group=groups, kernel_shape=[3, 3])]
    batch = torch.from_numpy(floats(3, 4, 6, 6))
    measured = square(evidence(graph(nodes, {"w": weight}, {"x": ["n", 4, 6, 6]}, {"y": ["n", 8, 4, 4]}), batch))
    per_channel = batch.square().mean((0, 2, 3))
    for out in range(8):
        first = out // (8 // groups) * (4 // groups)
        expected = per_channel[first : first + 4 // groups].view(-1, 1, 1).expand(4 // groups, 3, 3)
        torch.testing.assert_close(measured[out], expected)


def test_a_table_is_read_as_often_as_its_rows_are_looked_up() -> None:
    nodes = [node("Gather", "w x", "y")]
    model = graph(nodes, {"w": floats(5, 3)}, {"x": ["n", 4]}, {"y": ["n", 4, 3]}, TensorProto.INT64)
    batch = torch.tensor([[0, 0, 2, 1], [2, 0, 4, 0]])
    expected = torch.tensor([4, 1, 2, 0, 1]).view(5, 1).expand(5, 3) / 8
    torch.testing.assert_close(square(evidence(model, batch)), expected)


def test_a_weight_of_two_layers_sums_what_both_read() -> None:
    nodes = [node("Gemm", "x w", "a"), node("Tanh", "a", "b"), node("Gemm", "b w", "y")]
    weight = floats(4, 4)
    model = graph(nodes, {"w": weight}, {"x": ["n", 4]}, {"y": ["n", 4]})
    batch = torch.from_numpy(floats(10, 4))
    expected = batch.square().mean(0) + torch.tanh(batch @ torch.from_numpy(weight)).square().mean(0)
    torch.testing.assert_close(square(evidence(model, batch)), expected.view(4, 1).expand(4, 4))


FOLDED = {
    "gemm": [node("Gemm", "x w b", "y", transB=1, alpha=0.5, beta=2.0)],
    "matmul and add": [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "p"), node("Add", "b p", "y")],
}


@pytest.mark.parametrize("name", FOLDED)
def test_the_folded_mean_keeps_the_function_of_a_constant_input(name: str) -> None:
    """And not that of another input, or the weights would not have gone."""
    model = graph(FOLDED[name], {"w": floats(4, 6), "b": floats(4)}, {"x": ["n", 6]}, {"y": ["n", 4]})
    constant = torch.from_numpy(floats(1, 6)).expand(8, 6)
    found = evidence(model, constant)
    module, other = found.module, torch.from_numpy(floats(8, 6))
    before, elsewhere = module(constant).detach(), module(other).detach()
    going = {"w": torch.rand(4, 6) < 0.5}
    assert fold_means(found, going) == {"w": 1}
    module.set_masks({"w": ~going["w"]})
    torch.testing.assert_close(module(constant), before)
    assert not torch.allclose(module(other), elsewhere, atol=1e-2)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_mean_of_a_convolution_folds(groups: int) -> None:
    model = graph(
        [node("Conv", "x w b", "y", group=groups, kernel_shape=[3, 3])],
        {"w": floats(6, 4 // groups, 3, 3), "b": floats(6)},
        {"x": ["n", 4, 5, 5]},
        {"y": ["n", 6, 3, 3]},
    )
    constant = torch.from_numpy(floats(1, 4, 1, 1)).expand(2, 4, 5, 5)
    found = evidence(model, constant)
    before = found.module(constant).detach()
    going = {"w": torch.rand(6, 4 // groups, 3, 3) < 0.5}
    fold_means(found, going)
    found.module.set_masks({"w": ~going["w"]})
    torch.testing.assert_close(found.module(constant), before, rtol=1e-4, atol=1e-5)


def test_a_mean_does_not_go_into_a_bias_that_another_layer_reads_too() -> None:
    nodes = [node("Gemm", "x w b", "a", transB=1), node("Gemm", "x v b", "c", transB=1), node("Add", "a c", "y")]
    weights = {"w": floats(4, 6), "v": floats(4, 6), "b": floats(4)}
    module = from_onnx(graph(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 4]}), untie=False)
    found = Evidence(module, [torch.ones(2, 6)], torch.Generator())
    before = module.initializers["b"].detach().clone()
    assert fold_means(found, {"w": torch.ones(4, 6, dtype=torch.bool)}) == {"w": 0}
    assert torch.equal(module.initializers["b"], before)


def test_the_channel_that_an_element_writes() -> None:
    model = graph([node("Gemm", "x w", "y")], {"w": floats(6, 4)}, {"x": ["n", 6]}, {"y": ["n", 4]})
    module = from_onnx(model)
    (use,) = linear_uses(module.model, set(module.initializers))
    np.testing.assert_array_equal(use.written, np.broadcast_to(np.arange(4), (6, 4)))
    np.testing.assert_array_equal(use.read, np.broadcast_to(np.arange(6)[:, None], (6, 4)))
