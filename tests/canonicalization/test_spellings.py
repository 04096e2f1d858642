"""Each spelling is fused, with constants stored in any way and of any type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.patterns.graphs import fused, model
from tests.support.patterns.spellings import GELU, GUARDED_SOFTMAX, LAYER_NORMALIZATION, RMS_NORMALIZATION, SWISH
from tests.support.planted.checks import run

STORED = [
    {"as_nodes": False, "scalars": ()},
    {"as_nodes": True, "scalars": (1,)},
    {"as_nodes": True, "scalars": (), "dtype": np.float16},
    {"as_nodes": False, "scalars": (1,), "dtype": np.float64},
]


@pytest.mark.parametrize("stored", STORED, ids=["initializers", "nodes", "half", "double"])
@pytest.mark.parametrize(("name", "inputs", "text"), LAYER_NORMALIZATION, ids=[row[0] for row in LAYER_NORMALIZATION])
def test_layer_normalization(name: str, inputs: tuple[str, ...], text: str, stored: dict[str, Any]) -> None:
    (node,) = fused(model(text, **stored))
    assert (node.op, node.inputs, node.outputs) == ("LayerNormalization", inputs, ("y",))
    assert node.attributes == {"axis": -1, "epsilon": float(np.asarray(1e-5, stored.get("dtype", np.float32)))}


@pytest.mark.parametrize("stored", STORED[:2], ids=["initializers", "nodes"])
@pytest.mark.parametrize(("name", "inputs", "text"), RMS_NORMALIZATION, ids=[row[0] for row in RMS_NORMALIZATION])
def test_rms_normalization(name: str, inputs: tuple[str, ...], text: str, stored: dict[str, Any]) -> None:
    (node,) = fused(model(text, **stored))
    assert (node.op, node.inputs) == ("RMSNormalization", inputs)
    assert node.attributes == {"axis": -1, "epsilon": float(np.float32(1e-5))}


def test_axes_given_as_an_input() -> None:
    text = LAYER_NORMALIZATION[0][2].replace("<axes=[-1]>(x)", "(x, last)").replace("<axes=[-1]>(s)", "(s, last)")
    (node,) = fused(model(text, opset=18))
    assert (node.op, node.attributes["axis"]) == ("LayerNormalization", -1)


def test_several_normalized_axes() -> None:
    text = LAYER_NORMALIZATION[0][2].replace("[-1]", "[-2, -1]").replace("g)", "table)")
    (node,) = fused(model(text, more={"table": np.ones((3, 6))}))
    assert (node.op, node.inputs, node.attributes["axis"]) == ("LayerNormalization", ("x", "table", "b"), -2)


@pytest.mark.parametrize("stored", STORED, ids=["initializers", "nodes", "half", "double"])
@pytest.mark.parametrize(("approximate", "text"), GELU)
def test_gelu(approximate: str, text: str, stored: dict[str, Any]) -> None:
    (node,) = fused(model(text, **stored))
    assert (node.op, node.inputs, node.attributes) == ("Gelu", ("x",), {"approximate": approximate})


@pytest.mark.parametrize("stored", STORED[:2], ids=["initializers", "nodes"])
@pytest.mark.parametrize(("alpha", "text"), SWISH)
def test_swish(alpha: float, text: str, stored: dict[str, Any]) -> None:
    (node,) = fused(model(text, **stored))
    assert (node.op, node.inputs, node.attributes) == ("Swish", ("x",), {"alpha": float(np.float32(alpha))})


@pytest.mark.parametrize("stored", STORED[:2], ids=["initializers", "nodes"])
@pytest.mark.parametrize(("axis", "text"), GUARDED_SOFTMAX)
def test_guarded_softmax(axis: int, text: str, stored: dict[str, Any]) -> None:
    (node,) = fused(model(text, **stored))
    assert (node.op, node.inputs, node.attributes) == ("GuardedSoftmax", ("x",), {"axis": axis})


@pytest.mark.parametrize(("approximate", "text"), GELU)
def test_what_is_called_gelu_computes_it(approximate: str, text: str) -> None:
    """The spellings of this test are right themselves: each equals onnxruntime's own operator."""
    x = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    own = model(f'y = Gelu<approximate="{approximate}">(x)', opset=20)
    (expected,), (found,) = run(own, {"x": x}), run(model(text), {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # two ways to round a few float32 operations


@pytest.mark.parametrize(("name", "inputs", "text"), LAYER_NORMALIZATION, ids=[row[0] for row in LAYER_NORMALIZATION])
def test_what_is_called_layer_normalization_computes_it(name: str, inputs: tuple[str, ...], text: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    scale = inputs[1] and "g" or "ones"
    given = f"x, {scale}, b" if inputs[2] else f"x, {scale}"
    own = model(f"y = LayerNormalization<epsilon=0.00001>({given})", more={"ones": np.ones(6)})
    (expected,), (found,) = run(own, {"x": x}), run(model(text), {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # the same
