"""What a module offers: names, inputs by position and by name, activations, dtypes, errors of one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from onnxsqueeze.errors import InvalidModelError, UsageError
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.training.module import OnnxModule, from_onnx
from tests.support.training.apart import run_apart
from tests.training.module.models import convolutional, made, normal, perceptron


def two_inputs() -> onnx.ModelProto:
    """y = left @ W + right, z = y * 2."""
    nodes = [
        helper.make_node("MatMul", ["left", "weight"], ["a"]),
        helper.make_node("Add", ["a", "the right"], ["y"]),
        helper.make_node("Mul", ["y", "two"], ["z"]),
    ]
    stored = {"weight": normal(0, 4, 3), "two": np.float32(2.0)}
    inputs = {"left": (np.float32, ["n", 4]), "the right": (np.float32, ["n", 3])}
    return made(nodes, inputs, ["y", "z"], stored)


def test_inputs_and_outputs() -> None:
    module = from_onnx(two_inputs())
    assert module.input_names == ("left", "the right") and module.output_names == ("y", "z")
    left, right = torch.randn(5, 4), torch.randn(5, 3)
    y, z = module(left, right)
    torch.testing.assert_close(y, left @ module.initializers["weight"] + right)
    torch.testing.assert_close(z, 2 * y)
    for other in (module(left, **{"the right": right}), module(**{"the right": right, "left": left})):
        torch.testing.assert_close(other[0], y)
    assert list(module.initializers) == ["weight"]  # a number is not trained


@pytest.mark.parametrize(
    ("given", "named", "said"),
    [
        ((0,), {}, "'the right' is missing"),
        ((0, 1, 0), {}, "3 inputs were given, but the model has 2: left, the right"),
        ((0,), {"left": 0, "the right": 1}, "'left' is unknown or was given twice"),
        ((0,), {"other": 0}, "'other' is unknown"),
    ],
)
def test_wrong_inputs(given: tuple[int, ...], named: dict[str, int], said: str) -> None:
    module = from_onnx(two_inputs())
    tensors = [torch.randn(5, 4), torch.randn(5, 3)]
    with pytest.raises(UsageError, match=said):
        module(*(tensors[place] for place in given), **{name: tensors[place] for name, place in named.items()})


def test_inputs_are_checked_when_asked() -> None:
    module = from_onnx(convolutional())
    module.check_inputs(torch.zeros(2, 3, 9, 9))
    for bad, said in (
        (torch.zeros(2, 4, 9, 9), r"\[2, 4, 9, 9\]; the model takes \['batch', 3, 'height', 'width'\]"),
        (torch.zeros(2, 3, 9), r"\[2, 3, 9\]"),
        (torch.zeros(2, 3, 9, 9, dtype=torch.int64), "torch.int64; the model takes torch.float32"),
        (np.zeros((2, 3, 9, 9)), "ndarray, not a tensor"),
    ):
        with pytest.raises(UsageError, match=said):
            module.check_inputs(bad)


def test_run_gives_activations_with_gradients() -> None:
    module, x = from_onnx(perceptron()), torch.randn(6, 12)
    assert {"x", "a", "b", "c", "y"} == set(module.tensor_names)
    outputs, found = module.run([x], ["b", "c", "b", "x"])
    assert list(found) == ["b", "c", "x"] and found["x"] is x
    torch.testing.assert_close(outputs, module(x))
    torch.testing.assert_close(found["c"] + module.initializers["second.bias"], outputs)
    (gradient,) = torch.autograd.grad(outputs.sum(), [found["b"]])
    torch.testing.assert_close(gradient, module.initializers["second.weight"].sum(1).expand(6, 8))
    module.set_masks({"second.weight": torch.zeros(8, 5, dtype=torch.bool)})
    assert not module.run({"x": x}, ["c"])[1]["c"].any()
    assert module.run([x])[1] == {}
    with pytest.raises(UsageError, match="'nothing' is no activation"):
        module.run([x], ["nothing"])


def test_products_become_linear_maps() -> None:
    """A transposed weight and a bias cost no calls of their own, whichever way they are written."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["a"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["d"]),
        helper.make_node("Add", ["d", "wide"], ["y"]),
    ]
    stored = {"w": normal(0, 4, 6), "b": normal(1, 4), "v": normal(2, 4, 1), "wide": normal(3, 5)}
    module = from_onnx(made(nodes, {"x": (np.float32, ["n", "m", 6])}, ["y"], stored))
    graph = module.graph
    called = [getattr(node.target, "__name__", "") for node in graph.nodes if node.op == "call_function"]
    assert called == ["linear", "transpose", "linear", "add"]  # a sum that makes rows longer stays one
    x = torch.randn(2, 3, 6)
    w, b, v, wide = (module.initializers[name] for name in ("w", "b", "v", "wide"))
    torch.testing.assert_close(module(x), ((x @ w.T + b) @ v) + wide)


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["model.layers.0.weight", "model.norm"], ["model.layers.0.weight", "model.norm"]),
        (["a", "a.b"], ["a", "a_.b"]),
        (["onnx::MatMul_1", "class.for"], ["onnx::MatMul_1", "class_.for_"]),
        (["forward", "training.type"], ["forward", "training.type"]),
        (['say "x"', "..a"], ["say__x_", "_._.a"]),
    ],
)
def test_parameters_nest_by_name(names: list[str], paths: list[str]) -> None:
    nodes = [helper.make_node("Mul", ["x", names[0]], ["z"]), helper.make_node("Add", ["z", names[1]], ["y"])]
    model = made(nodes, {"x": (np.float32, ["n", 3])}, ["y"], {name: normal(0, 3) for name in names})
    module = from_onnx(model)
    assert {name for name, _ in module.named_parameters()} == set(paths) == set(module.state_dict())
    assert list(module.initializers) == names
    x = torch.randn(2, 3)
    torch.testing.assert_close(module(x), x * module.initializers[names[0]] + module.initializers[names[1]])
    assert not isinstance(module.model, nn.Module)


def test_what_is_trained() -> None:
    minus = np.where(np.tri(4), 0.0, -np.inf).astype(np.float32)
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["a"]),
        helper.make_node("Add", ["a", "large"], ["b"]),
        helper.make_node("Mul", ["b", "frozen"], ["c"]),
        helper.make_node("Mul", ["c", "weight"], ["d"]),
        helper.make_node("Sub", ["d", "scalar"], ["y"]),
        helper.make_node("Mul", ["x", "unread"], ["e"]),
    ]
    stored = {
        "mask": minus,
        "large": np.where(np.tri(4), 0.0, np.finfo(np.float32).min).astype(np.float32),
        "frozen": normal(0, 4),
        "weight": normal(1, 4),
        "scalar": normal(2, 1),
        "unread": normal(3, 4),
    }
    model = made(
        nodes, {"x": (np.float32, ["n", 4, 4])}, ["y"], stored, onnxsqueeze_frozen=json.dumps(["frozen", "gone"])
    )
    module = from_onnx(model)
    assert list(module.initializers) == ["weight"] and list(module.state_dict()) == ["weight"]
    assert list(module.write_back().initializers) == list(stored)


def test_frequencies_of_positions_are_not_trained() -> None:
    """Angles of counted positions are no weights; those of data are."""

    def waves(floating: bool) -> OnnxModule:
        nodes = [
            helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["f", "w"], ["a"]),
            helper.make_node("Sin", ["a"], ["s"]),
            helper.make_node("Mul", ["s", "v"], ["y"]),
        ]
        kind = np.float32 if floating else np.int64
        return from_onnx(made(nodes, {"p": (kind, ["n", 1])}, ["y"], {"w": normal(0, 1, 4), "v": normal(1, 4)}))

    assert list(waves(False).initializers) == ["v"] and list(waves(True).initializers) == ["w", "v"]


def shared(values: np.ndarray, **metadata: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Identity", ["w"], ["other"]),
        helper.make_node("Mul", ["b", "other"], ["c"]),
        helper.make_node("Add", ["c", "other"], ["y"]),
    ]
    return made(nodes, {"x": (np.float32, ["n", len(values)])}, ["y"], {"w": values}, **metadata)


def test_untying() -> None:
    ones = np.ones(4, np.float32)
    module = from_onnx(shared(ones))
    assert list(module.initializers) == ["w", "other", "other.untied_1"]
    assert module.preparation.untied == {"w": ("other", "other.untied_1")}
    assert [node.op_type for node in module.model.skeleton.graph.node] == ["Mul", "Relu", "Mul", "Add"]
    onnx.checker.check_model(to_proto(module.write_back()), full_check=True)
    for untouched in (
        from_onnx(shared(normal(0, 4))),  # different values are not equal by chance
        from_onnx(shared(ones), untie=False),
        from_onnx(shared(ones, onnxsqueeze_tied=json.dumps([["w", "other"]]))),
        from_onnx(shared(ones, onnxsqueeze_tied="[]")),
    ):
        assert list(untouched.initializers) == ["w"] and untouched.preparation.shared == ("w",)
    assert len(from_onnx(shared(normal(0, 4)), untie="all").initializers) == 3
    repeated = np.tile(np.float32([0.3, 0.0, -0.2, 0.0]), 16)
    assert len(from_onnx(shared(repeated)).initializers) == 3


def test_source_stays_as_it_is() -> None:
    proto = shared(np.ones(4, np.float32))
    before = proto.SerializeToString()
    model = load(proto)
    names, skeleton = list(model.initializers), model.skeleton.SerializeToString()
    module = from_onnx(model)
    module.initializers["w"].data.zero_()
    assert proto.SerializeToString() == before
    assert (list(model.initializers), model.skeleton.SerializeToString()) == (names, skeleton)
    assert model.initializers["w"].array.all() and module.model.initializers["w"].array.all()


def test_layers_in_training_mode_follow_the_module() -> None:
    """What the older exporter writes of a network in training mode."""
    nodes = [
        helper.make_node(
            "BatchNormalization", ["x", "g", "b", "m", "v"], ["a", "m2", "v2"], name="norm", training_mode=1
        ),
        helper.make_node("Dropout", ["a", "ratio", "on"], ["y", "mask"], name="drop"),
    ]
    stored = {name: np.ones(3, np.float32) for name in "gbmv"}
    stored |= {"ratio": np.float32(0.5), "on": np.array(True)}
    module = from_onnx(made(nodes, {"x": (np.float32, ["n", 3])}, ["y"], stored))
    assert module.preparation.live == ("norm", "drop") and len(module.preparation.lines()) == 2
    x = torch.randn(8, 3)
    torch.testing.assert_close(module.eval()(x), 1 + (x - 1) / (1 + 1e-5) ** 0.5)
    assert (module.train()(x) == 0).any() and not torch.equal(module.statistics["m"], torch.ones(3))
    assert [list(node.output) for node in module.write_back().skeleton.graph.node][0] == ["a"]


def test_other_types_and_devices() -> None:
    module, x = from_onnx(perceptron(), device="cpu"), torch.randn(3, 12)
    single = module(x)
    torch.testing.assert_close(module.double()(x.double()), single.double(), rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module.float()(x).float(), single, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_without_a_break(masked: bool) -> None:
    module, x = from_onnx(convolutional()).eval(), torch.randn(2, 3, 9, 9)
    if masked:
        module.set_masks({"head.weight": torch.rand(5, 6) < 0.5})
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))


def test_distributed_data_parallel(tmp_path: Path) -> None:
    run_apart(_masks_hold_in_parallel, tmp_path / "store")


def _masks_hold_in_parallel(store: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    module = from_onnx(convolutional())
    module.set_masks({"head.weight": torch.rand(5, 6) < 0.5})
    parallel = nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.AdamW(parallel.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        parallel(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in module.parameters())
    array = module.write_back().initializers["head.weight"].array
    assert not array[~module.masks["head.weight"].numpy()].any()


def test_operator_without_a_lowering() -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node("Det", ["a"], ["y"], name="the node")]
    model = made(nodes, {"x": (np.float32, ["n", 3, 3])}, ["y"], {"w": normal(0, 3, 3)})
    with pytest.raises(UsageError, match="'the node': there is no torch lowering of Det"):
        from_onnx(model)


def test_output_that_a_form_does_not_give() -> None:
    nodes = [helper.make_node("Dropout", ["x"], ["y", "i"])]
    model = made(nodes, {"x": (np.float32, [1, 1, 4, 4])}, ["y", "i"], {})
    with pytest.raises(UsageError, match="'i' is no output of the torch form of Dropout"):
        from_onnx(model)


def test_unreadable_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidModelError):
        from_onnx(tmp_path / "none.onnx")
    path = tmp_path / "net.onnx"
    onnx.save(perceptron(), path)
    assert list(from_onnx(path).initializers) == list(from_onnx(str(path)).initializers)
