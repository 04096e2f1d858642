"""Normalizations over the last axes, by channel and by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from onnxsqueeze.model.compensated_function import DOMAIN, NAME, compensated_layer_norm
from onnxsqueeze.training.module import from_onnx
from tests.support.drawing import Draw
from tests.training.lowerings.checking import (
    Case,
    Sizes,
    as_model,
    assert_gradients,
    assert_same_outputs,
    check,
    in_sizes,
    run,
)

D = Draw()
X, S, B = D.floats(3, 5, 8), D.positive(8), D.floats(8)
IMAGE, WIDE = D.floats(2, 6, 4, 3), D.floats(3, 4)

LAST = [
    Case("LayerNormalization", [X, S, B], (1, 2), attributes={"epsilon": 1e-3}),
    Case("LayerNormalization", [X, S], (1,), opset=17, label="no bias"),
    Case("LayerNormalization", [X, D.positive(5, 8), D.floats(5, 8)], (1, 2), attributes={"axis": 1}, label="axes"),
    Case("LayerNormalization", [X, D.positive(1), D.floats(8)], (1, 2), label="one scale"),
    Case("LayerNormalization", [X, S, B], label="computed scale"),
    Case("LayerNormalization", [X, S, B], (1, 2), outputs=3, label="statistics"),
    Case("SimplifiedLayerNormalization", [X, S], (1,), opset=17, attributes={"epsilon": 1e-3}),
    Case("RMSNormalization", [X, S], (1,), opset=23),
    Case("RMSNormalization", [X, D.positive(5, 8)], (1,), opset=23, attributes={"axis": -2}, label="axes"),
]
MICROSOFT = [
    Case("SkipLayerNormalization", [X, D.floats(3, 5, 8), S, B, D.floats(8)], (2, 3, 4), domain="com.microsoft"),
    Case(
        "SkipLayerNormalization",
        [X, D.floats(3, 5, 8), S],
        (2,),
        domain="com.microsoft",
        names=("y", "", "", "sum"),
        label="sum",
    ),
    Case(
        "SkipSimplifiedLayerNormalization",
        [X, D.floats(3, 5, 8), S, B],
        (2, 3),
        domain="com.microsoft",
        names=("y", "", "", "sum"),
        attributes={"epsilon": 1e-3},
    ),
]
IMAGES = [
    Case("GroupNormalization", [IMAGE, D.positive(6), D.floats(6)], (1, 2), attributes={"num_groups": 3}),
    Case("GroupNormalization", [D.floats(1, 4, 1, 2), D.positive(4), D.floats(4)], attributes={"num_groups": 2}),
    Case("InstanceNormalization", [IMAGE, D.positive(6), D.floats(6)], (1, 2), attributes={"epsilon": 1e-2}),
    Case("InstanceNormalization", [D.floats(2, 3, 5), D.positive(3), D.floats(3)], (1, 2), opset=11),
    Case("LpNormalization", [WIDE]),
    Case("LpNormalization", [WIDE], attributes={"p": 1, "axis": 0}, label="1"),
    Case("LRN", [IMAGE], attributes={"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5}, label="odd"),
    Case("LRN", [D.floats(4, 4, 2, 3)], attributes={"size": 4, "alpha": 0.3}, reference=True, label="even"),
    Case("MeanVarianceNormalization", [IMAGE]),
    Case("MeanVarianceNormalization", [IMAGE], attributes={"axes": [1, 3]}, label="axes"),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes([*LAST, *MICROSOFT, *IMAGES]), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)


def test_norm_of_zeros_is_zero() -> None:
    """Also the gradient is no NaN there."""
    module = from_onnx(Case("LpNormalization", [WIDE]).model())
    x = torch.zeros(3, 4, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert not y.detach().any() and x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("width", [8, 11, 40])
@pytest.mark.parametrize(("total", "deviations"), [(0.0, 0.0), (2.5, 0.0), (-3.0, 1.75)])
def test_compensated_layer_norm(width: int, total: float, deviations: float) -> None:
    """The function that minimize writes, called as one operator and defined in the model."""
    removed: dict[str, Any] = {"sum": total, "squared_deviations": deviations} if width > 8 else {}
    attributes = {"width": width, "epsilon": 1e-3, "sum": 0.0, "squared_deviations": 0.0, **removed}
    node = helper.make_node(NAME, ["x", "s", "b"], ["y"], domain=DOMAIN, **attributes)
    declared = [helper.make_tensor_value_info(name, 1, ["n", 5, 8]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(S, "s"), numpy_helper.from_array(B, "b")]
    model = as_model(helper.make_graph([node], "one", declared[:1], declared[1:], weights), 18, DOMAIN)
    model.functions.append(compensated_layer_norm(18))
    onnx.checker.check_model(model)
    module = from_onnx(model)
    assert_same_outputs(module, model, {"x": X})
    assert_gradients(module, {"x": X})
    assert set(module.initializers) == {"s", "b"}


def test_large_halves_are_normalized() -> None:
    """Their squares are larger than any float16, which the module does not compute in."""
    case = Case("LayerNormalization", [200 * X, S, B], (1, 2), attributes={"epsilon": 1e-3})
    halves = Case(case.op, [array.astype(np.float16) for array in case.operands], (1, 2), attributes=case.attributes)
    module = from_onnx(halves.model())
    found = module(torch.from_numpy(200 * X).half())
    assert found.dtype in (torch.float16, torch.float32)
    assert np.abs(found.detach().float().numpy() - run(case.model(), case.feeds)[0]).max() < 1e-2
