"""A dimension called "?" has no name: exporters that write it for every dynamic one do not say that they are equal."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper, parser

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse


def network() -> ModelProto:
    """An image of any height and width, both called "?", and channels of which some are zero."""
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(8, 3, 3, 3)).astype(np.float32), random.normal(size=8).astype(np.float32)
    weight[5:], bias[5:] = 0, 0
    last = random.normal(size=(4, 8, 3, 3)).astype(np.float32)
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> unnamed
        (float[1,3,h,w] x) => (float[1,4,h,w] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, k, b) r = Relu(c) y = Conv <pads = [1, 1, 1, 1]> (r, l) }""")
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_param = "?"
    model.graph.initializer.extend(map(numpy_helper.from_array, (weight, bias, last), "kbl"))
    return model


def test_images_need_not_be_square() -> None:
    result = sq.minimize(network(), round_to=1, input_shapes={"x": (1, 3, 12, 20)})
    assert [tensor.dims[0] for tensor in result.model.graph.initializer if tensor.name == "k"] == [5]


def test_the_analysis_does_not_take_them_for_equal() -> None:
    height, width = analyse(load(network())).context.shape("x")[2:]
    assert height != width
