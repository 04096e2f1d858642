"""Valid models with something unusual in them: what can go goes, and nothing fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze.model.initializer import MOST_AXES
from onnxsqueeze.model.protobuf import set_field

F, I64, BF16 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BFLOAT16
RANDOM = np.random.default_rng(0)
node = helper.make_node


def drawn(*shape: int, dead: Sequence[int] = (), axis: int = -1) -> Any:
    array = RANDOM.uniform(-1, 1, shape).astype(np.float32)
    np.moveaxis(array, axis, 0)[list(dead)] = 0
    return array


def model(
    nodes: Sequence[NodeProto],
    stored: Mapping[str, Any],
    *more: tuple[str, int, Any],
    x: Sequence[Any] = ("N", 8),
    y: Sequence[Any] = ("N", 4),
    opset: int = 17,
    dtype: int = F,
    value_info: Sequence[tuple[str, int, Any]] = (),
    outputs: Sequence[tuple[str, int, Any]] = (),
) -> ModelProto:
    """Return a model that reads ``x`` and what ``more`` declares, and writes ``y`` and ``outputs``."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "odd",
        [value("x", dtype, x), *(value(*entry) for entry in more)],
        [value("y", dtype, y), *(value(*entry) for entry in outputs)],
        [array if isinstance(array, TensorProto) else numpy_helper.from_array(array, name)
         for name, array in stored.items()],
        value_info=[value(*entry) for entry in value_info],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


DEAD = (1, 5, 9)
LAYERS = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["y"])]
WEIGHTS = {"w": drawn(8, 16, dead=DEAD), "v": drawn(16, 4)}


def weights_after(given: ModelProto, **options: Any) -> int:
    """Minimize, with verification, and return how many weights are left."""
    return onnxsqueeze.minimize(given, round_to=1, **options).report.weights_after


def after_layers(*more: int) -> int:
    """Return the number of weights of `LAYERS` without the dead channels."""
    return (8 + 4) * (16 - len(DEAD)) + sum(more)


@pytest.mark.parametrize("centred", [False, True])
def test_a_spelt_out_norm_without_a_scale(centred: bool) -> None:
    """The statistics of the original width need a scale that none of its nodes can take."""
    c = "c" if centred else "a"
    mean = [node("ReduceMean", ["a"], ["mu"], axes=[-1]), node("Sub", ["a", "mu"], ["c"])] if centred else []
    norm = [
        *(node("Pow", [c, "two"], ["p"]), node("ReduceMean", ["p"], ["m"], axes=[-1])),
        *(node("Add", ["m", "eps"], ["e"]), node("Sqrt", ["e"], ["s"]), node("Div", [c, "s"], ["d"])),
    ]
    stored = {"w": drawn(64, 48, dead=DEAD), "v": drawn(48, 32), "two": np.float32(2), "eps": np.float32(1e-5)}
    given = model([LAYERS[0], *mean, *norm, node("MatMul", ["d", "v"], ["y"])], stored, x=("N", 64), y=("N", 32))
    kept = 46 if centred else 45  # one of the dead channels stays, to hold what centring makes of them
    assert weights_after(given) == 96 * kept + kept + 1


def test_indices_of_two_axes_from_an_input() -> None:
    nodes = [node("Gather", ["x", "i"], ["g"]), node("MatMul", ["g", "w"], ["a"]), *LAYERS[1:]]
    given = model(nodes, {**WEIGHTS, "i": np.array([[0, 1, 2], [3, 4, 5]])}, x=(10, 8), y=(2, 3, 4))
    assert weights_after(given) == after_layers()


@pytest.mark.parametrize("words", [[b"ab", b"cd", b"ef"], [b"ab", b"\xff\xfe", b"ef"]])
def test_strings_that_are_gathered(words: list[bytes]) -> None:
    strings = TensorProto(name="si", data_type=TensorProto.STRING, dims=[3], string_data=words)
    given = model(
        [*LAYERS, node("Gather", ["si", "k"], ["so"])], {**WEIGHTS, "si": strings}, ("k", I64, ["K"]),
        outputs=[("so", TensorProto.STRING, ["K"])],
    )  # fmt: skip
    assert weights_after(given) == after_layers()


def test_a_weight_without_elements() -> None:
    nodes = [node("MatMul", ["x", "w0"], ["a0"]), node("Concat", ["a0", "x"], ["xx"], axis=1),
             node("MatMul", ["xx", "w"], ["a"]), *LAYERS[1:]]  # fmt: skip
    assert weights_after(model(nodes, {**WEIGHTS, "w0": np.zeros((8, 0), np.float32)})) == after_layers()


@pytest.mark.parametrize("declared", [("b", F, ["N", 16, 1]), ("b", F, [16]), ("b", F, []), ("w", F, [8, 16, 1])])
def test_a_declared_shape_of_another_rank(declared: tuple[str, int, Any]) -> None:
    """Runtimes overlook it; what is left of it must not be half right."""
    result = onnxsqueeze.minimize(model(LAYERS, WEIGHTS, value_info=[declared]), round_to=1)
    assert result.report.weights_after == after_layers()
    assert all(len(value.type.tensor_type.shape.dim) in (0, 2) for value in result.model.graph.value_info)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_depth_to_space_before_lp_normalization(axis: int, mode: str) -> None:
    """Along space the channels are not told apart, so that the demand is one element for all of them."""
    nodes = [
        node("Conv", ["x", "w"], ["a"]), node("DepthToSpace", ["a"], ["d"], blocksize=2, mode=mode),
        node("LpNormalization", ["d"], ["l"], axis=axis), node("Conv", ["l", "v"], ["y"]),
    ]  # fmt: skip
    stored = {"w": drawn(16, 3, 1, 1, dead=(4, 5, 6, 7), axis=0), "v": drawn(2, 4, 1, 1)}
    left = weights_after(model(nodes, stored, x=(1, 3, 4, 4), y=(1, 2, 8, 8)))
    assert left == (42 if (axis, mode) == (1, "CRD") else 56)


@pytest.mark.parametrize("name", ["start", "end", "axis", "step"])
def test_a_slice_with_an_overridable_bound(name: str) -> None:
    bounds = {"start": np.array([4]), "end": np.array([5]), "axis": np.array([0]), "step": np.array([1])}
    nodes = [
        node("Slice", ["t", *bounds], ["s"]), LAYERS[0], node("Add", ["a", "s"], ["b"]), LAYERS[2]
    ]  # fmt: skip
    stored = {**WEIGHTS, **bounds, "t": drawn(10, 16, dead=DEAD)}
    left = weights_after(model(nodes, stored, (name, I64, [1])), verify=False)
    assert left == (after_layers(10 * 13) if name in ("start", "end") else after_layers(160) + 12 * len(DEAD))


@pytest.mark.parametrize("operator", ["Elu", "HardSigmoid", "Softplus", "Softsign", "LpNormalization", "Sin", "Selu"])
def test_a_data_type_that_the_schema_excludes(operator: str) -> None:
    """The checker of onnx lets it through; where onnxruntime does not load it, that is no reason to fail."""

    def tensor(name: str, array: Any) -> TensorProto:
        return helper.make_tensor(name, BF16, array.shape, array.ravel().tolist())

    stored = {name: tensor(name, array) for name, array in WEIGHTS.items()}
    given = model([LAYERS[0], node(operator, ["a"], ["b"]), LAYERS[2]], stored, dtype=BF16)
    assert weights_after(given, verify=False) == 8 * 16 + 16 * 4


@pytest.mark.parametrize("place", ["node", "graph", "model", "value_info", "attribute", "initializer", "input"])
def test_doc_strings_that_are_not_utf8(place: str) -> None:
    given = model([LAYERS[0], node("LeakyRelu", ["a"], ["b"], alpha=0.1), LAYERS[2]], WEIGHTS,
                  value_info=[("b", F, ["N", 16])])  # fmt: skip
    graph = given.graph
    holder = {
        "node": graph.node[0], "graph": graph, "model": given, "value_info": graph.value_info[0],
        "input": graph.input[0], "attribute": graph.node[1].attribute[0], "initializer": graph.initializer[0],
    }[place]  # fmt: skip
    put(holder, "doc_string")
    result = onnxsqueeze.minimize(given, round_to=1)
    assert result.report.weights_after == after_layers()
    assert b"gr\xf6n" in result.model.SerializeToString()


def put(message: Any, field: str) -> None:
    """Set a field to text that is not UTF-8."""
    set_field(message, message.DESCRIPTOR.fields_by_name[field], b"gr\xf6n")


def test_other_text_that_is_not_utf8() -> None:
    """The name of a value in a Constant node, and what is said of a node that is read with others as one operator."""
    value = numpy_helper.from_array(drawn(64, 48, dead=DEAD))
    put(value, "name")
    norm = [
        *(node("Pow", ["a", "two"], ["p"]), node("ReduceMean", ["p"], ["m"], axes=[-1])),
        *(node("Add", ["m", "eps"], ["e"]), node("Sqrt", ["e"], ["s"]), node("Div", ["a", "s"], ["d"])),
    ]
    put(norm[-1], "doc_string")
    nodes = [node("Constant", [], ["w"], value=value), LAYERS[0], *norm, node("MatMul", ["d", "v"], ["y"])]
    stored = {"v": drawn(48, 32), "two": np.float32(2), "eps": np.float32(1e-5)}
    result = onnxsqueeze.minimize(model(nodes, stored, x=("N", 64), y=("N", 32)), round_to=1)
    assert result.report.weights_after == 97 * 45 + 1
    assert result.model.SerializeToString().count(b"gr\xf6n") == 2


@pytest.mark.parametrize("rank", [33, 51, 64])
def test_tensors_of_many_axes(rank: int) -> None:
    """They count as tensors of unknown shape; what is beside them goes."""
    nodes = [node("Mul", ["x", "s"], ["q"]), node("Reshape", ["q", "sh"], ["r"]), node("MatMul", ["r", "w"], ["a"]),
             *LAYERS[1:]]  # fmt: skip
    stored = {**WEIGHTS, "s": helper.make_tensor("s", F, [1] * rank, [2.0]), "sh": np.array([-1, 8])}
    if rank > MOST_AXES:  # of numpy before 2
        with pytest.raises(onnxsqueeze.InvalidModelError, match="a shape beyond numpy's"):
            weights_after(model(nodes, stored))
        return
    assert weights_after(model(nodes, stored)) == after_layers(1)
    nodes = [node("Reshape", ["x", "sh"], ["r"]), *nodes[2:]]
    assert weights_after(model(nodes, stored | {"s": np.float32(1)}, x=[1] * (rank - 1) + [8], y=(1, 4))) < 193


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"])
def test_an_axis_that_is_named_twice(operator: str) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node(operator, ["a"], ["r"], axes=[2, 3, 2]),
        node("Conv", ["r", "v"], ["y"]),
    ]
    stored = {"w": drawn(8, 3, 1, 1, dead=(1, 4), axis=0), "v": drawn(2, 8, 1, 1)}
    assert weights_after(model(nodes, stored, x=("N", 3, 4, 4), y=("N", 2, 1, 1), opset=11)) == 6 * 5


def test_keepdims_of_seven_is_not_one() -> None:
    """onnxruntime and the standard's inference keep axes for 1 alone."""
    nodes = [*LAYERS[:2], node("ReduceMean", ["b"], ["r"], axes=[0], keepdims=7), node("MatMul", ["r", "v"], ["y"])]
    assert weights_after(model(nodes, WEIGHTS, y=(4,))) == after_layers()


@pytest.mark.parametrize("heads", [(2, 4), (4, 2), (1, 8), (2, 8), (4, 4)])
@pytest.mark.parametrize(
    "dead", [range(32, 40), [0, 1, 16, 17, *range(32, 40), 44], [*range(8), *range(16, 24), *range(32, 40)]]
)
def test_attentions_that_share_a_weight_but_not_its_heads(heads: tuple[int, int], dead: Sequence[int]) -> None:
    bias = drawn(48)
    bias[list(dead)] = 0
    stored = {"w": drawn(16, 48, dead=dead), "bias": bias, "u": drawn(16, 16), "v": drawn(16, 4)}
    attend = {"op_type": "Attention", "domain": "com.microsoft"}
    nodes = [
        node(inputs=["x", "w", "bias"], outputs=["a"], num_heads=heads[0], **attend), node("MatMul", ["a", "u"], ["m"]),
        node(inputs=["m", "w", "bias"], outputs=["c"], num_heads=heads[1], **attend), node("MatMul", ["c", "v"], ["y"]),
    ]  # fmt: skip
    left = weights_after(model(nodes, stored, x=("N", 3, 16), y=("N", 3, 4)))
    whole = sum(array.size for array in stored.values())
    assert left == whole // 2 if len(dead) == 24 else left <= whole


def test_a_dimension_whose_name_is_not_utf8() -> None:
    given = model(LAYERS, WEIGHTS)
    encoded = given.SerializeToString().replace(b"\x12\x01N", b"\x12\x01\xff")
    assert weights_after(onnx.load_from_string(encoded)) == after_layers()
