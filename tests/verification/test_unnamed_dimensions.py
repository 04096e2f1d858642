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


def test_a_state_without_names_has_the_batch_of_the_input() -> None:
    """As in voice detectors: the length has no name either, and must be long enough for the padding."""
    random = np.random.default_rng(1)
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> voice
        (float[n,t] x, float[1,m,6] state) => (float[1,n,6] y) {
        p = Pad <mode = "reflect"> (x, pads) u = Unsqueeze(p, one) c = Conv (u, w) r = Relu(c)
        steps = Transpose <perm = [2, 0, 1]> (r) all, y = GRU <hidden_size = 6> (steps, k, h, , , state) }""")
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    arrays = {
        "w": random.normal(size=(4, 1, 4)),
        "k": random.normal(size=(1, 18, 4)),
        "h": random.normal(size=(1, 18, 6)),
    }
    stored = {name: array.astype(np.float32) for name, array in arrays.items()}
    stored |= {"pads": np.array([0, 20, 0, 20]), "one": np.array([1])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    sizes = sq.verify(model, model).sizes
    batches = [(each["x[0]"], each["state[1]"]) for each in sizes]
    assert batches[0] == (1, 1) and batches[1][0] > 1  # both vary together
    assert all(one == other for one, other in batches) and all(each["x[1]"] > 20 for each in sizes)
