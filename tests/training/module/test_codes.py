"""Networks of codes as modules: what they compute, what learns, and what is written back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training.module import from_onnx
from tests.operators.quantization.test_packed_product import Packed
from tests.support.quantized import Codes, Form, in_operators, outputs, shapes

FORMS = [Form(), Form(per_channel=True), Form(np.uint8, np.uint8, shifted=True), Form(np.int8, np.int8)]


def network(form: Form) -> tuple[Codes, onnx.ModelProto]:
    net = Codes(form, 3)
    x = net.layer("Conv", net.input("N", 3, 6, 6), net.units(live=8), (3, 3), pads=[1, 1, 1, 1])
    x = net.layer("Conv", x, net.units(live=6), (3, 3))
    return net, net.model(net.layer("Conv", x, net.units(live=4), (1, 1), relu=False).name)


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_computes_what_onnxruntime_computes(form: Form, operators: bool) -> None:
    """A sum right between two codes may be rounded either way: a step of the last scale at few places."""
    net, model = network(form)
    model = in_operators(model) if operators else model
    expected = outputs(model, net.example)[0]
    with torch.no_grad():
        found = from_onnx(model)(torch.from_numpy(net.example["x"])).numpy()
    step = np.diff(np.unique(expected)).min()
    assert np.abs(found - expected).max() <= 1.01 * step
    assert np.mean(np.abs(found - expected) > 0.01 * step) < 0.02


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_weights_learn_and_come_back_as_codes(form: Form) -> None:
    net, model = network(form)
    module = from_onnx(model)
    x = torch.from_numpy(net.example["x"])
    target = module(x).detach() * 0.5
    before = {name: weight.detach().clone() for name, weight in module.initializers.items()}
    assert {tuple(weight.shape) for weight in before.values()} >= set(shapes(model))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (module(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(weight, before[name]) for name, weight in module.initializers.items())
    written = to_proto(module.write_back())
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {tensor.name: tensor.data_type for tensor in written.graph.initializer} == kinds
    step = np.diff(np.unique(outputs(written, net.example)[0])).min()
    with torch.no_grad():
        assert np.abs(module(x).numpy() - outputs(written, net.example)[0]).max() <= 1.01 * step


def test_what_does_not_learn_comes_back_as_it_was() -> None:
    _, model = network(Form(per_channel=True))
    written = to_proto(from_onnx(model).write_back())
    for before, after in zip(model.graph.initializer, written.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))


def test_masks_write_the_codes_of_zero() -> None:
    _, model = network(Form(np.uint8, np.uint8, shifted=True))
    module = from_onnx(model)
    name = next(name for name, weight in module.initializers.items() if weight.ndim == 4)
    mask = torch.ones(module.initializers[name].shape, dtype=torch.bool)
    mask[2] = False
    module.set_masks({name: mask})
    (decoding,) = [node for node in model.graph.node if node.input[0] == name]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in to_proto(module.write_back()).graph.initializer}
    assert (stored[name][2] == stored[decoding.input[2]]).all()


def test_measured_scales() -> None:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "measured",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(random.standard_normal((5, 3)).astype("f"), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = random.standard_normal((4, 5)).astype("f")
    module = from_onnx(model)
    given = torch.from_numpy(x).requires_grad_()
    found = module(given)
    np.testing.assert_allclose(found.detach().numpy(), outputs(model, {"x": x}, optimized=False)[0], atol=1e-5)
    found.sum().backward()
    assert given.grad is not None and given.grad.abs().sum() > 0


@pytest.mark.parametrize("op", ["MatMulInteger", "ConvInteger"])
def test_whole_numbers_hand_gradients_on(op: str) -> None:
    """What layers of codes add up is of an integer type in the file; what comes before them learns all the same."""
    random = np.random.default_rng(0)
    conv = op == "ConvInteger"
    weights = {"w": (5, 4, 3, 3) if conv else (4, 5), "v": (2, 5, 1, 1) if conv else (5, 2)}
    arrays = {name: random.integers(-90, 90, shape).astype(np.int8) for name, shape in weights.items()}
    nodes, x = [], "x"
    for name in weights:
        coded = [f"{part}_{name}" for part in ("q", "s", "z")]
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [x], coded),
            helper.make_node(op, [coded[0], name, coded[2]], [f"i_{name}"]),
            helper.make_node("Cast", [f"i_{name}"], [f"f_{name}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"f_{name}", coded[1]], [f"m_{name}"]),
        ]
        x = f"m_{name}"
    dims = ["N", 4, 6, 6] if conv else ["N", 4]
    graph = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    module = from_onnx(model)
    sample = random.standard_normal([40 if size == "N" else size for size in dims]).astype("f")
    given = torch.from_numpy(sample).requires_grad_()
    found = module(given)
    np.testing.assert_allclose(found.detach().numpy(), outputs(model, {"x": sample}, optimized=False)[0], rtol=1e-4)
    found.square().sum().backward()
    plain = torch.from_numpy(sample).requires_grad_()  # the same without any rounding
    real = {name: torch.tensor(array, dtype=torch.float32, requires_grad=True) for name, array in arrays.items()}
    between = torch.conv2d(plain, real["w"]) if conv else plain @ real["w"]
    (torch.conv2d(between, real["v"]) if conv else between @ real["v"]).square().sum().backward()
    pairs = [(given.grad, plain.grad), *((module.initializers[name].grad, real[name].grad) for name in weights)]
    for ours, theirs in pairs:
        assert ours is not None and theirs is not None
        assert torch.cosine_similarity(ours.ravel(), theirs.ravel(), dim=0) > 0.97  # what sets the scale, differs
        assert 0.9 < ours.norm() / theirs.norm() < 1.1


PACKED = [
    ("codes", True, False),
    ("", False, False),
    ("numbers", False, False),
    ("", True, True),
    ("numbers", False, True),
]


@pytest.mark.parametrize(("zeros", "flat", "ordered"), PACKED)
def test_packed_products(zeros: str, flat: bool, ordered: bool) -> None:
    net = Packed(4, zeros, flat)
    order = np.random.default_rng(3).permutation(40) // 16 if ordered else None
    model = net.model(net.layer("x", 20, 40, bias=np.ones(20), order=order), 40)
    x = np.random.default_rng(5).standard_normal((2, 3, 40)).astype("f")
    with torch.no_grad():
        found = from_onnx(model)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, outputs(model, {"x": x}, optimized=False)[0], rtol=1e-4, atol=1e-4)
