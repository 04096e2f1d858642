"""What onnxruntime's quantizer makes of transformers: QAttention, QEmbedLayerNormalization, tables of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from tests.support.planted.attention_networks import Network, Sizes, behind_a_layer, planted, projected
from tests.support.planted.checks import SINGLE, deviation, minimize
from tests.support.quantized import MICROSOFT, outputs
from tests.support.quantizers import dynamic

Array = npt.NDArray[Any]


def checked(model: onnx.ModelProto, *draws: dict[str, Array]) -> sq.Result:
    """Minimize and compare, where runtimes fuse and where they do not."""
    result = minimize(model, narrowing=False)
    for given in draws:
        for optimized in (False, True):
            before, after = (outputs(each, given, optimized) for each in (model, result.model))
            assert [array.dtype for array in before] == [array.dtype for array in after]
            assert deviation(*([array.astype("f") for array in made] for made in (before, after))) <= SINGLE
    return result


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1}


def the(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.op_type == op)
    return node


def settings(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


# -- attention --------------------------------------------------------------------------------------------------------


def attention(small: Sizes, wide: Sizes, **attributes: Any) -> onnx.ModelProto:
    """An attention without sizes of its own, as QAttention is, behind a layer of which one unit is constant."""
    _, outer = planted(small, wide, 0, constants=False)
    model = projected(Network(outer, 17), None, **attributes)
    node = the(model, "Attention")
    kept = [attribute for attribute in node.attribute if attribute.name != "qkv_hidden_sizes"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return behind_a_layer(model)


def sequence(seed: int = 0) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((2, 8, 6)).astype("f")}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("small", "left"), [((3, 3), 3), ((2, 4), 4), ((4, 1), 4)])
def test_attention_loses_heads_and_elements(per_channel: bool, small: tuple[int, int], left: int) -> None:
    """Queries and values keep equally many elements, since QAttention knows one size; the scale stays what it was."""
    model = dynamic(attention(Sizes(2, 1, *small), Sizes(4, 1, 7, 7)), "Attention", per_channel=per_channel)
    result = checked(model, sequence(0), sequence(1))
    assert shapes(result.model)["weight_quantized"] == [6, 3 * 2 * left]
    given = settings(the(result.model, "QAttention"))
    assert given["num_heads"] == 2 and given["scale"] == pytest.approx(7**-0.5)
    assert set(given) == {"num_heads", "scale"}


def test_attention_with_a_mask_and_one_that_looks_back_only() -> None:
    model = attention(Sizes(2, 1, 3, 3), Sizes(3, 1, 5, 5), unidirectional=1)
    the(model, "Attention").input.append("mask")
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.INT32, ["N", "T"]))
    mask = np.array([[1] * 8, [1] * 5 + [0] * 3], np.int32)
    result = checked(dynamic(model, "Attention"), sequence() | {"mask": mask})
    assert settings(the(result.model, "QAttention")).keys() == {"num_heads", "scale", "unidirectional"}
    assert shapes(result.model)["weight_quantized"] == [6, 18]


def test_attention_that_shows_its_keys_keeps_its_heads() -> None:
    model = attention(Sizes(2, 1, 3, 3), Sizes(3, 1, 5, 5))
    node = the(model, "Attention")
    node.input.extend(["", "past"])
    node.output.append("present")
    for values, length in ((model.graph.input, "past"), (model.graph.output, "present")):
        values.append(helper.make_tensor_value_info(length, TensorProto.FLOAT, [2, "N", 3, length, 5]))
    past = np.random.default_rng(3).standard_normal((2, 2, 3, 4, 5)).astype("f")
    result = checked(dynamic(model, "Attention"), sequence() | {"past": past})
    assert shapes(result.model)["weight_quantized"] == [6, 45]


def test_heads_of_zeros_leave_in_front_of_a_measured_scale() -> None:
    """Their results are 0, which no scale depends on; heads that nobody reads are not."""
    model = attention(Sizes(4, 1, 4, 4), Sizes(4, 1, 4, 4))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, gone in (("weight", [1, 3]), ("biases", [1, 3]), ("out", [2])):
        array = numpy_helper.to_array(stored[name]).copy()
        heads = array.reshape(4, 4, 5) if name == "out" else array.reshape(-1, 3, 4, 4)
        heads[(gone,) if name == "out" else (slice(None), slice(None), gone)] = 0
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    result = checked(dynamic(model), sequence())
    assert shapes(result.model)["weight_quantized"] == [6, 24]
    assert shapes(result.model)["out_quantized"] == [8, 5]


# -- embeddings -------------------------------------------------------------------------------------------------------

WIDTH, GONE = 48, range(5, 31)  # channels, and those of zeros


class Embedding:
    """Words, positions and segments, normed, and a layer behind them."""

    def __init__(self, opset: int = 17, mask: bool = True, segments: bool = True, zeros: bool = True) -> None:
        self.random, self.zeros = np.random.default_rng(1), zeros
        self.opset, names = opset, ["words", "positions", *(["segments"] if segments else [])]
        self.arrays = {name: self.zeroed(rows, WIDTH) for name, rows in zip(names, (20, 12, 2), strict=False)}
        self.arrays |= {"scale": self.zeroed(WIDTH), "shift": self.zeroed(WIDTH)}
        self.arrays["weight"] = self.random.standard_normal((WIDTH, 5)).astype("f")
        self.inputs = ["ids", *(["kinds"] if segments else []), *(["mask"] if mask else [])]
        read = ["ids", "kinds" if segments else "", "words", "positions", "segments" if segments else ""]
        self.read = [*read, "scale", "shift", "mask" if mask else ""]
        self.outputs = {"counts": (TensorProto.INT32, ["N"])}

    def zeroed(self, *shape: int) -> Array:
        array = self.random.standard_normal(shape).astype("f")
        array[..., GONE] *= not self.zeros
        return array

    def model(self) -> onnx.ModelProto:
        written = ["e", "counts", *(name for name in self.outputs if name != "counts")]
        nodes = [
            helper.make_node("EmbedLayerNormalization", self.read, written, "embed", domain=MICROSOFT, epsilon=1e-5),
            helper.make_node("MatMul", ["e", "weight"], ["y"], "head"),
        ]
        outputs = {"y": (TensorProto.FLOAT, ["N", "S", 5])} | self.outputs
        graph = helper.make_graph(
            nodes,
            "embedding",
            [helper.make_tensor_value_info(name, TensorProto.INT32, ["N", "S"]) for name in self.inputs],
            [helper.make_tensor_value_info(name, *entry) for name, entry in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.arrays.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def draw(self, batch: int = 2, length: int = 7) -> dict[str, Array]:
        most = {"ids": 20, "kinds": 2, "mask": 3, "places": 12}
        return {name: self.random.integers(0, most[name], (batch, length)).astype("i") for name in self.inputs}

    def checked(self, quantized: bool) -> sq.Result:
        model = self.model()
        return checked(dynamic(model, "EmbedLayerNormalization") if quantized else model, self.draw(), self.draw(3, 12))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("mask", [False, True])
def test_embeddings_lose_channels(quantized: bool, opset: int, mask: bool) -> None:
    """What is 0 in all tables and behind the norm leaves, one of them excepted that stands for the others."""
    net = Embedding(opset, mask)
    left = WIDTH - len(GONE) + 1
    result = net.checked(quantized)
    ending = "_quantized" if quantized else ""
    found = shapes(result.model)
    assert [found[f"{name}{ending}"] for name in ("words", "positions", "segments")] == [[n, left] for n in (20, 12, 2)]
    assert found["weight"] == [left, 5]
    if quantized:
        (words, *_) = (row for row in result.report.layers if row.operator == "Gather")
        assert words.dtype == "uint8" and words.sparsity == pytest.approx(len(GONE) / WIDTH, abs=0.02)


def test_embeddings_without_segments() -> None:
    assert shapes(Embedding(segments=False).checked(False).model)["words"] == [20, WIDTH - len(GONE) + 1]


@pytest.mark.parametrize("opset", [11, 17])
def test_embeddings_stay_one_node_where_nothing_leaves(opset: int) -> None:
    """Positions may be given, and sums be written as well; the layer behind loses outputs or not."""
    net = Embedding(opset)
    net.inputs.append("places")
    net.read.append("places")
    net.outputs["sums"] = (TensorProto.FLOAT, ["N", "S", WIDTH])
    model = net.model()
    assert [node.op_type for node in checked(model, net.draw()).model.graph.node] == [
        model.graph.node[0].op_type,
        "MatMul",
    ]
    net = Embedding(opset, zeros=False)
    model = dynamic(net.model(), "EmbedLayerNormalization")
    assert checked(model, net.draw()).model.graph.node[0].op_type == "QEmbedLayerNormalization"


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_table_of_codes_loses_columns(per_channel: bool) -> None:
    """As the quantizer writes an embedding: codes are looked up, and decoded behind that."""
    random = np.random.default_rng(0)
    arrays = {"table": random.standard_normal((30, 24)).astype("f"), "w": random.standard_normal((24, 7)).astype("f")}
    arrays["w"][[2, 5, 6]], arrays["table"][:, [9, 11]] = 0, 0
    nodes = [helper.make_node("Gather", ["table", "ids"], ["e"], "look"), helper.make_node("MatMul", ["e", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "S"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "S", 7])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    coded = dynamic(model, "Gather", per_channel=per_channel)
    ids = random.integers(0, 30, (3, 5))
    result = checked(coded, {"ids": ids})
    assert shapes(result.model) == {"table_quantized": [30, 19], "w": [19, 7]}
    assert result.report.layers[0].sparsity == pytest.approx(2 / 24, abs=0.02)
    whole = dynamic(model, per_channel=per_channel)  # the product as well, whose data has the scale of the table
    assert shapes(checked(whole, {"ids": ids}).model) == {"table_quantized": [30, 19], "w_quantized": [19, 7]}
