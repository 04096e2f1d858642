"""CompensatedLayerNorm in torch: a LayerNorm that has lost constant channels, and nothing of its accuracy."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional as F

import onnxsqueeze as sq
from onnxsqueeze.training.export.export import export_masked
from onnxsqueeze.training.modules.compensated_layer_norm import CompensatedLayerNorm, compensated_layer_norm
from tests.support.planted.checks import SINGLE, deviation, run

WIDTH = 40


def drawn(dtype: torch.dtype = torch.float32) -> tuple[nn.LayerNorm, Tensor]:
    """Return a LayerNorm with parameters of all sizes, and which of its channels stay."""
    torch.manual_seed(0)
    norm = nn.LayerNorm(WIDTH, eps=1e-3).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm, torch.rand(WIDTH) < 0.6


def widened(x: Tensor, kept: Tensor, constants: Tensor) -> Tensor:
    """Put the removed channels back."""
    wide = x.new_zeros((*x.shape[:-1], len(kept)))
    wide[..., kept] = x
    wide[..., ~kept] = constants.to(x.dtype)
    return wide


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (5.0, 1e-3), (1e3, 1.0), (1e3, 1e-2), (-1e3, 1e-3)])
def test_it_is_as_accurate_as_a_layer_norm_over_all_channels(offset: float, spread: float) -> None:
    norm, kept = drawn()
    norm.eps = 1e-5
    x = offset + spread * torch.randn(64, int(kept.sum()))
    constants = offset + spread * torch.randn(int((~kept).sum()))
    wide = widened(x, kept, constants)
    exact = F.layer_norm(wide.double(), (WIDTH,), norm.weight.double(), norm.bias.double(), norm.eps)[..., kept]
    with torch.no_grad():
        error = (CompensatedLayerNorm.from_layer_norm(norm, kept, constants)(x) - exact).abs().max()
        stock = (norm(wide)[..., kept] - exact).abs().max()
    assert error <= 1.5 * stock + 1e-6
    assert error <= 1e-6 + 1e-7 * abs(offset) / spread * 4  # a few units in the last place of the largest value


@pytest.mark.parametrize("constants", [0.0, 2.5, None], ids=["zeros", "equal", "different"])
def test_gradients_are_those_of_the_layer_norm_over_all_channels(constants: float | None) -> None:
    norm, kept = drawn(torch.float64)
    count = int((~kept).sum())
    values = torch.randn(count).double() if constants is None else torch.full((count,), constants).double()
    narrow = CompensatedLayerNorm.from_layer_norm(norm, kept, values if constants is None else constants)
    assert narrow.weight.dtype == torch.float64 and torch.equal(narrow.weight, norm.weight[kept])
    x = torch.randn(3, 5, int(kept.sum()), dtype=torch.float64, requires_grad=True)
    direction = torch.randn(3, 5, int(kept.sum()), dtype=torch.float64)
    out, wide = narrow(x), norm(widened(x, kept, values))[..., kept]
    torch.testing.assert_close(out, wide, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(out, [x, narrow.weight, narrow.bias], direction)
    expected = torch.autograd.grad(wide, [x, norm.weight, norm.bias], direction)
    for one, other in zip(found, (expected[0], expected[1][kept], expected[2][kept]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_derivative_by_finite_differences() -> None:
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (5,), (5,))]
    assert torch.autograd.gradcheck(lambda x, w, b: compensated_layer_norm(x, w, b, 9, 1e-3, 3.0, 2.0), inputs)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        out = compensated_layer_norm(*inputs, 9, 1e-3, 3.0, 2.0)
        (gradient,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
        gradient.sum().backward()


def test_nothing_removed_is_a_layer_norm() -> None:
    norm, _ = drawn()
    whole = CompensatedLayerNorm.from_layer_norm(norm, torch.ones(WIDTH, dtype=torch.bool))
    x = torch.randn(3, WIDTH)
    assert torch.equal(whole(x), norm(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_single(dtype: torch.dtype) -> None:
    norm, kept = drawn()
    x = (100 + torch.randn(8, int(kept.sum()))).to(dtype)
    narrow = CompensatedLayerNorm.from_layer_norm(norm, kept, 100.0)
    exact = narrow(x.float())
    assert narrow.to(dtype)(x).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = CompensatedLayerNorm.from_layer_norm(norm, kept, 100.0)(x)
        loss = out.float().square().mean()
    assert out.dtype == dtype
    loss.backward()
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.02)


def test_it_is_copied_compiled_and_mapped_like_any_module() -> None:
    norm, kept = drawn()
    narrow = CompensatedLayerNorm.from_layer_norm(norm, kept, 1.5)
    x = torch.randn(4, int(kept.sum()))
    expected = narrow(x)
    for copied in (copy.deepcopy(narrow), pickle.loads(pickle.dumps(narrow))):
        assert torch.equal(copied(x), expected)
    compiled = torch.compile(narrow, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)

    def loss(row: Tensor) -> Tensor:
        return narrow(row).square().sum()

    each = torch.func.vmap(torch.func.grad(loss))(x)
    given = x.clone().requires_grad_()
    torch.testing.assert_close(each, torch.autograd.grad(narrow(given).square().sum(), given)[0])


def test_parameters_that_a_layer_norm_lacks_are_not_trained() -> None:
    plain = nn.LayerNorm(WIDTH, elementwise_affine=False)
    _, kept = drawn()
    narrow = CompensatedLayerNorm.from_layer_norm(plain, kept)
    assert not narrow.weight.requires_grad and not narrow.bias.requires_grad
    x = torch.randn(3, int(kept.sum()))
    wide = widened(x, kept, torch.zeros(int((~kept).sum())))
    torch.testing.assert_close(narrow(x), plain(wide)[..., kept])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CompensatedLayerNorm(5, 4), "5 of 4 channels present"),
        (lambda: CompensatedLayerNorm(0, 4), "0 of 4 channels present"),
        (lambda: CompensatedLayerNorm(2, 4, removed_squared_deviations=-1.0), "sum of squared deviations of at least"),
        (lambda: CompensatedLayerNorm(4, 4, removed_sum=1.0), "nothing can have been removed"),
        (lambda: CompensatedLayerNorm.from_layer_norm(nn.LayerNorm((2, 3)), [True] * 3), "over a single axis"),
        (lambda: CompensatedLayerNorm.from_layer_norm(nn.LayerNorm(3), [True] * 4), "must be 3 booleans"),
        (
            lambda: CompensatedLayerNorm.from_layer_norm(nn.LayerNorm(3), [True, False, False], [1.0]),
            "2 channels leave",
        ),
    ],
)
def test_numbers_that_do_not_fit(make: Any, message: str) -> None:
    with pytest.raises(sq.UsageError, match=message):
        make()


class Block(nn.Module):
    """A narrowed norm between two layers."""

    def __init__(self) -> None:
        super().__init__()
        norm, kept = drawn()
        self.norm = CompensatedLayerNorm.from_layer_norm(norm, kept, torch.randn(int((~kept).sum())))
        self.first, self.last = nn.Linear(6, int(kept.sum())), nn.Linear(int(kept.sum()), 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return self.last(self.norm(self.first(x)))


def assert_minimizes(model: onnx.ModelProto, block: Block) -> None:
    """The exported node says what the module knows, and standard operators that compute the same take its place."""
    node = next(node for node in model.graph.node if node.op_type == "CompensatedLayerNorm")
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert node.domain == "onnxsqueeze" and len(node.input) == 3
    assert found.keys() == {"width", "epsilon", "sum", "squared_deviations"}
    assert found["width"] == WIDTH and found["epsilon"] == pytest.approx(block.norm.eps)
    assert found["sum"] == pytest.approx(block.norm.removed_sum)
    minimized = sq.minimize(model).model
    assert all(node.domain == "" for node in minimized.graph.node)
    x = torch.randn(4, 6)
    with torch.no_grad():
        assert deviation([block(x).numpy()], run(minimized, {model.graph.input[0].name: x.numpy()})) <= SINGLE


def test_newer_exporter_writes_one_node(tmp_path: Path) -> None:
    block = Block()
    model = onnx.load(export_masked(block, torch.randn(2, 6), tmp_path / "x.onnx"))
    assert [function.name for function in model.functions] == ["CompensatedLayerNorm"]
    assert_minimizes(model, block)
    with torch.no_grad():
        x = torch.randn(4, 6)
        assert deviation([block(x).numpy()], run(model, {"x": x.numpy()})) <= SINGLE


def by_older(block: Block, opset: int, dtype: torch.dtype = torch.float32) -> onnx.ModelProto:
    names: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    file = io.BytesIO()
    torch.onnx.export(block, (torch.randn(2, 6, dtype=dtype),), file, dynamo=False, opset_version=opset, **names)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [12, 13, 17])
def test_older_exporter_writes_one_node(opset: int) -> None:
    block = Block()
    assert_minimizes(by_older(block, opset), block)


@pytest.mark.filterwarnings("ignore")
def test_nodes_without_a_definition_in_older_files() -> None:
    """A function cannot follow the type of its input there, and before opset 12 it cannot be written at all."""
    assert sq.minimize(by_older(Block().half(), 13, torch.float16)).report.verification is not None
    with pytest.raises(sq.InvalidModelError, match="opset 11 is too old for CompensatedLayerNorm; export with 12"):
        sq.minimize(by_older(Block(), 11))


def test_opset_without_the_functions_operators_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sq.UsageError, match="opset 14 is too old for CompensatedLayerNorm; give 15 or later"):
        export_masked(Block(), torch.randn(2, 6), tmp_path / "x.onnx", opset=14)


def test_removed_constants_are_summed_without_losing_digits() -> None:
    norm, kept = drawn()
    constants = (1e3 + 1e-3 * torch.randn(int((~kept).sum()))).double()
    narrow = CompensatedLayerNorm.from_layer_norm(norm, kept, constants)
    expected = np.sum((constants.numpy().astype(np.longdouble) - constants.numpy().astype(np.longdouble).mean()) ** 2)
    assert narrow.removed_squared_deviations == pytest.approx(float(expected), rel=1e-9)
