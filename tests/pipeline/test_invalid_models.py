"""Models that the checker of onnx takes and no runtime does: exit code 3 and one line, or the node stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze.errors import InvalidModelError, SqueezeError
from onnxsqueeze.model.saving import save
from tests.end_to_end.random_networks.generator import random_network
from tests.end_to_end.random_networks.token_generator import random_token_network
from tests.pipeline.test_odd_models import LAYERS, WEIGHTS, after_layers, drawn, model, node
from tests.support.mutants import mutant
from tests.support.perceptrons import refused, run

CONV = {"w": drawn(8, 3, 3, 3, dead=(1, 4), axis=0), "v": drawn(2, 8, 1, 1)}


def convolutions(**attributes: object) -> ModelProto:
    nodes = [node("Conv", ["x", "w"], ["a"], **attributes), node("Relu", ["a"], ["b"]), node("Conv", ["b", "v"], ["y"])]
    return model(nodes, CONV, x=("N", 3, 8, 8), y=("N", 2, "H", "W"))


def flat_weight() -> ModelProto:
    bias = {"bias": drawn(4)}
    gemm = node("Gemm", ["b", "v", "bias"], ["y"])
    return model([*LAYERS[:2], gemm], {**WEIGHTS, **bias, "v": drawn(64)})


def expanded_to_fractions() -> ModelProto:
    nodes = [*LAYERS[:2], node("Expand", ["b", "v"], ["c"]), node("MatMul", ["c", "v"], ["y"])]
    return model(nodes, WEIGHTS)


def unfitting_weights() -> ModelProto:
    return model(LAYERS, {**WEIGHTS, "v": drawn(15, 4)})


def shaped_beyond_numbers() -> ModelProto:
    nodes = [
        *LAYERS[:2],
        node("Reshape", ["b", "sh"], ["r"]),
        node("Relu", ["r"], ["rr"]),
        node("MatMul", ["rr", "v"], ["y"]),
    ]
    return model(nodes, {**WEIGHTS, "sh": np.array([-9, 16])})


UNLOADABLE: list[Callable[[], ModelProto]] = [
    lambda: convolutions(pads=[1, 1, 1]),
    lambda: convolutions(strides=[2]),
    flat_weight,
    expanded_to_fractions,
    unfitting_weights,
    shaped_beyond_numbers,
]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("make", UNLOADABLE)
def test_what_onnxruntime_does_not_load(make: Callable[[], ModelProto], verify: bool, tmp_path: Path) -> None:
    given = make()
    onnx.checker.check_model(given)
    path = tmp_path / "net.onnx"
    onnx.save(given, path)
    message = refused(run("minimize", path, *([] if verify else ["--no-verify"])), 3)
    assert message.startswith(f"{path}: onnxruntime does not load it: ")
    assert refused(run("inspect", path), 3) == message
    assert list(tmp_path.iterdir()) == [path]


def beside(*nodes: onnx.NodeProto, **stored: object) -> ModelProto:
    """Return the layers, and a node behind an input of its own."""
    more = [("z", TensorProto.FLOAT, [2, 6])]
    return model([*LAYERS, *nodes], {**WEIGHTS, **stored}, *more, outputs=[("o", TensorProto.FLOAT, ["A", "B"])])


UNRUNNABLE = [
    beside(node("Softmax", ["z"], ["o"])),
    beside(node("Reshape", ["z", "sh"], ["o"]), sh=np.array([[3, 4]])),
    beside(node("Reshape", ["z", "sh"], ["o"]), sh=np.array([5, 5])),
]
UNRUNNABLE[0].graph.node[-1].attribute.append(helper.make_attribute("axis", 1))
UNRUNNABLE[0].graph.node[-1].attribute[0].ref_attr_name = "axis_of_no_function"


@pytest.mark.parametrize("given", UNRUNNABLE[:2])
def test_a_node_of_the_main_graph_that_cannot_run_makes_the_model_invalid(given: ModelProto) -> None:
    with pytest.raises(InvalidModelError, match="onnxruntime cannot run (Softmax|Reshape)"):
        onnxsqueeze.minimize(given, verify=False, round_to=1)


def test_a_node_that_no_rule_finds_fault_with_stays_as_it_is() -> None:
    given = UNRUNNABLE[2]
    result = onnxsqueeze.minimize(given, verify=False, round_to=1)
    assert result.report.weights_after == after_layers()
    assert given.graph.node[-1] in result.model.graph.node


def test_a_constant_with_more_bytes_than_its_shape_has() -> None:
    """The checker only finds those with fewer."""
    value = numpy_helper.from_array(drawn(8, 16), "value")
    value.raw_data += b"more"
    nodes = [node("Constant", [], ["w"], value=value), node("MatMul", ["x", "w"], ["a"]), *LAYERS[1:]]
    with pytest.raises(InvalidModelError, match="onnxruntime does not load it: .*raw_data size"):
        onnxsqueeze.inspect(model(nodes, {"v": WEIGHTS["v"]}))


def test_verification_blames_the_node() -> None:
    """Not the user, who has given no sizes."""
    given = UNRUNNABLE[1]
    with pytest.raises(InvalidModelError, match="onnxruntime cannot run Reshape"):
        onnxsqueeze.minimize(given, round_to=1)


def test_an_error_behind_a_node_that_cannot_run_is_its_fault() -> None:
    """Concat along an axis that is not there makes shapes that a later rule relies on."""
    nodes = [*LAYERS[:2], node("Concat", ["b", "b"], ["c"], axis=2**62), node("MatMul", ["c", "v"], ["y"])]
    with pytest.raises(InvalidModelError):
        onnxsqueeze.minimize(model(nodes, WEIGHTS), round_to=1)


def test_an_error_of_our_own_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model loads and all of its nodes run."""
    from onnxsqueeze.pipeline import search

    def fail(*_: object) -> None:
        raise IndexError("our own")

    monkeypatch.setattr(search, "apply", fail)
    with pytest.raises(IndexError, match="our own"):
        onnxsqueeze.minimize(model(LAYERS, WEIGHTS), round_to=1)


def test_a_data_file_named_in_bytes_that_are_no_text(tmp_path: Path) -> None:
    given = model(LAYERS, WEIGHTS)
    tensor = given.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.dat")
    path = tmp_path / "net.onnx"
    path.write_bytes(given.SerializeToString().replace(b"w.dat", b"\xff.dat"))
    assert "not UTF-8" in refused(run("minimize", path), 3)


NETWORKS = [draw(seed).model for seed in range(4) for draw in (random_network, random_token_network)]


@pytest.mark.parametrize("seed", range(0, 200, 25))
def test_damaged_networks(seed: int, tmp_path: Path) -> None:
    """A thousand times as many are tried by tools/fuzz/damage_models.py."""
    for number in range(seed, seed + 25):
        try:
            result = onnxsqueeze.minimize(mutant(NETWORKS[number % len(NETWORKS)], number), verify=False)
            result.report.to_dict()
            save(result.minimized, tmp_path / "out.onnx")
        except SqueezeError as error:
            assert "\n" not in str(error)
            assert error.exit_code in (1, 3)


def test_mutants_are_the_same_for_the_same_seed() -> None:
    assert mutant(NETWORKS[0], 7) == mutant(NETWORKS[0], 7)
    assert len({mutant(NETWORKS[0], seed).SerializeToString() for seed in range(20)}) > 15
    assert numpy_helper.to_array(NETWORKS[0].graph.initializer[0]).size
