"""Norms over space alone (torch.nn.LayerNorm([H, W])), as operators and spelt out: channels leave one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper, parser, shape_inference

from tests.operators.normalization.test_image_layer_norm import spelling
from tests.support.planted.checks import assert_equal_outputs, minimize, weights

CHANNELS, SIDE = 8, 5
OPERATOR = "l = LayerNormalization <axis = 2, epsilon = 0.001> (h, scale, shift)"
FORMS = {
    "operator": OPERATOR,
    "layer": spelling("layer", "[2, 3]"),
    "layer from the end": spelling("layer", "[-2, -1]"),
    "rms": spelling("rms", "[2, 3]"),
}


def network(form: str, constants: Sequence[float], *, read: bool, uneven: bool = False, seed: int = 0) -> ModelProto:
    """Return convolutions around a norm; some channels before it are constants, which the last one reads if ``read``.

    Args:
        form: of the norm. constants: in channels of no order. uneven: whether each differs from place to place.
        read, seed: as they say.
    """
    random = np.random.default_rng(seed)
    first, last = random.standard_normal((CHANNELS, 3, 1, 1)), random.standard_normal((4, CHANNELS, 1, 1))
    image = np.zeros((1, CHANNELS, SIDE, SIDE))
    chosen = random.permutation(CHANNELS)[: len(constants)]
    first[chosen] = 0
    image[:, chosen] = np.reshape(constants, (-1, 1, 1))
    if uneven:
        image[:, chosen] += random.standard_normal((SIDE, SIDE))
    if not read:
        last[:, chosen] = 0
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> net
        (float[n,3,{SIDE},{SIDE}] x) => (float[n,4,{SIDE},{SIDE}] y) {{
        g = Conv (x, first) h = Add (g, image)
        {FORMS[form]}
        y = Conv (l, last) }}""")
    scale, shift = random.uniform(0.5, 2, (SIDE, SIDE)), np.zeros(1)
    arrays = {"first": first, "image": image, "last": last, "scale": scale, "shift": shift, "epsilon": np.array(1e-3)}
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    return model


def left(model: ModelProto) -> int:
    """Return how many channels the first layer makes, 0 where it is gone."""
    return next((shape[0] for shape in weights(model) if len(shape) == 4 and shape[1] == 3), 0)


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_channels_that_nothing_reads_leave(form: str, declared: bool) -> None:
    model = network(form, [0.0, 1.5, -2.0], read=False)
    model = shape_inference.infer_shapes(model) if declared else model
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert left(result) == CHANNELS - 3


@pytest.mark.parametrize(("form", "goes"), [("operator", 3), ("layer", 3), ("rms", 1)])
def test_what_a_constant_becomes(form: str, goes: int) -> None:
    """Around its mean each is 0; divided by its own root mean square, it is what an epsilon and a scale make of it."""
    model = network(form, [0.0, 1.5, -2.0], read=True)
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert left(result) == CHANNELS - goes


@pytest.mark.parametrize("form", FORMS)
def test_what_differs_from_place_to_place_stays(form: str) -> None:
    model = network(form, [0.0, 1.5], read=True, uneven=True)
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert left(result) == CHANNELS


@settings(max_examples=12, deadline=None)
@given(
    form=st.sampled_from(list(FORMS)),
    constants=st.lists(st.sampled_from([0.0, 0.5, -1.0]), max_size=4),
    read=st.booleans(),
    uneven=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_same_function(form: str, constants: list[float], read: bool, uneven: bool, seed: int) -> None:
    model = network(form, constants, read=read, uneven=uneven, seed=seed)
    assert_equal_outputs(model, minimize(model).model)
