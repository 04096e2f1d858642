"""Masks hold whatever trains the module, and what is written back has exact zeros."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.module import OnnxModule, from_onnx, masking
from tests.training.module.models import convolutional, perceptron


def masks(module: OnnxModule, share: float = 0.5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator) < share
        for name, value in module.initializers.items()
        if value.ndim > 1
    }


def masked() -> OnnxModule:
    module = from_onnx(convolutional())
    module.set_masks(masks(module))
    return module


def assert_holds(module: OnnxModule) -> None:
    """The masked weights are zero in what is written, and the function is that of the written model."""
    written = module.write_back()
    for name, mask in module.masks.items():
        array = written.initializers[name].array
        assert not array[~mask.numpy()].any() and array[mask.numpy()].all()
    x = torch.randn(3, 3, 8, 8)
    twin = from_onnx(written)
    assert not twin.masks
    torch.testing.assert_close(twin.eval()(x), copy.deepcopy(module).eval()(x), rtol=0, atol=0)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.05, weight_decay=0.5),
    "fused": lambda parameters: torch.optim.AdamW(parameters, 0.05, weight_decay=0.5, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, 0.1, max_iter=4),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_hold_under_optimizers(name: str) -> None:
    torch.manual_seed(0)
    module = from_onnx(convolutional())
    x, labels = torch.randn(8, 3, 8, 8), torch.randint(0, 5, (8,))
    optimizer = OPTIMIZERS[name](module.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    module.set_masks(masks(module))  # momentum has built up by now
    first = float(closure().detach())
    for _ in range(8):
        optimizer.step(closure)
    assert float(closure().detach()) < first
    assert_holds(module)


def test_masked_weights_get_no_gradient() -> None:
    module = masked()
    module(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name, mask in module.masks.items():
        gradient = module.initializers[name].grad
        assert gradient is not None and not gradient[~mask].any() and gradient[mask].any()


@pytest.mark.parametrize("raw", [float("inf"), float("nan")])
def test_what_lies_under_a_mask_does_not_matter(raw: float) -> None:
    module, x = masked(), torch.randn(2, 3, 8, 8)
    before = module.eval()(x)
    for name, mask in module.masks.items():
        module.initializers[name].data[~mask] = raw
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)
    assert_holds(module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masking_is_a_product(dtype: torch.dtype) -> None:
    """With its gradients, of any order, and mapped over a batch."""
    mask = torch.rand(4, 5) < 0.5
    values = torch.randn(5, 4, dtype=dtype).T.requires_grad_()
    assert torch.equal(masking.masked(values, mask), values * mask)
    if dtype == torch.float64:
        torch.autograd.gradcheck(lambda x: masking.masked(x, mask), values)
        torch.autograd.gradgradcheck(lambda x: masking.masked(x, mask).square().sum(), values)
    batch = torch.randn(3, 4, 5, dtype=dtype)
    mapped = torch.vmap(torch.func.grad(lambda x: masking.masked(x, mask).square().sum()))(batch)
    torch.testing.assert_close(mapped, 2 * batch * mask)


def test_copies_are_independent() -> None:
    module, x = masked(), torch.randn(2, 3, 8, 8)
    module.eval()
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        torch.testing.assert_close(twin(x), module(x), rtol=0, atol=0)
        assert twin.masks.keys() == module.masks.keys() and not twin.training
        before = module(x)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
        twin.set_masks({})
        torch.testing.assert_close(module(x), before, rtol=0, atol=0)
        assert not torch.allclose(twin(x), before)
        assert module.masks


def test_masks_are_replaced_and_checked() -> None:
    module, x = masked(), torch.randn(2, 3, 8, 8)
    module.eval()
    name = next(iter(module.masks))
    for bad in ({"nothing": torch.ones(3, dtype=torch.bool)}, {name: torch.ones(3, dtype=torch.bool)}):
        with pytest.raises(UsageError, match="mask"):
            module.set_masks(bad)
    with pytest.raises(UsageError, match="bool"):
        module.set_masks({name: module.initializers[name].detach()})
    with pytest.raises(UsageError, match="no trained initializer"):
        module.set_masks({next(iter(module.statistics)): torch.ones(8, dtype=torch.bool)})
    assert len(module.masks) > 1
    only = module.masks[name].numpy()
    module.set_masks({name: only})
    assert list(module.masks) == [name]
    module.set_masks({})
    torch.testing.assert_close(module(x), from_onnx(convolutional()).eval()(x), rtol=0, atol=0)


def test_a_mask_is_a_copy() -> None:
    module = from_onnx(perceptron())
    mask = torch.ones(module.initializers["first.weight"].shape, dtype=torch.bool)
    module.set_masks({"first.weight": mask})
    mask[:] = False
    assert module.masks["first.weight"].all()


def test_dense_state_loads_under_masks() -> None:
    module, dense, x = masked(), from_onnx(convolutional()), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.mul_(2.0)
    state = dense.state_dict()
    assert not any("mask" in key or "constant" in key for key in state)
    module.load_state_dict(state)
    assert module.masks
    dense.set_masks(module.masks)
    torch.testing.assert_close(module.eval()(x), dense.eval()(x), rtol=0, atol=0)


def test_masked_state_brings_its_masks() -> None:
    module, x = masked(), torch.randn(2, 3, 8, 8)
    other = from_onnx(convolutional())
    other.set_masks({"first.weight": torch.zeros(8, 3, 3, 3, dtype=torch.bool)})
    other.load_state_dict(module.state_dict())
    assert other.masks.keys() == module.masks.keys()
    torch.testing.assert_close(other.eval()(x), module.eval()(x), rtol=0, atol=0)
    state = module.state_dict() | {"norm.num_batches_tracked": torch.tensor(3)}
    other.load_state_dict(state)  # as a torch network's own state has
    with pytest.raises(RuntimeError, match="other"):
        other.load_state_dict(state | {"other": torch.zeros(1)})


def test_half_precision_file() -> None:
    model = perceptron(np.float16)
    module = from_onnx(model)
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    x = torch.randn(3, 12)
    torch.testing.assert_close(module(x.half()), module(x.half().float()))
    assert module.write_back().initializers["first.weight"].dtype == np.float16
    kept = module.model.initializers["first.weight"].array
    np.testing.assert_array_equal(module.write_back().initializers["first.weight"].array, kept)
    module.initializers["first.weight"].data[0, 0] = 1e6
    with pytest.raises(UsageError, match="too large"):
        module.write_back()
    module.set_masks({"first.weight": module.initializers["first.weight"].detach() < 1e5})
    assert module.write_back().initializers["first.weight"].array[0, 0] == 0


def test_writes_back_what_it_read() -> None:
    module = from_onnx(convolutional())
    written = module.write_back()
    assert list(written.initializers) == list(module.model.initializers)
    for name, stored in module.model.initializers.items():
        np.testing.assert_array_equal(written.initializers[name].array, stored.array)
        assert written.initializers[name].dtype == stored.dtype
    assert written.skeleton.SerializeToString() == module.model.skeleton.SerializeToString()
