"""No outcome takes more bytes than the file that was given, however that encodes what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.cli.main import main
from onnxsqueeze.model import wire
from tests.support.planted.checks import assert_equal_outputs

SLICES = 60


def spelled(name: str, array: npt.NDArray[Any]) -> onnx.TensorProto:
    """Return a tensor with its integers as varints."""
    return helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel())


def network(dead: int, form: str) -> onnx.ModelProto:
    """Return two dense layers of 8 units, as many of them dead, between many Slices that take everything.

    ``form`` says where the places of the Slices stand: in initializers, in attributes of Constant nodes, or in a sparse
    initializer that they are gathered from.
    """
    random = np.random.default_rng(1)
    first, second = (random.standard_normal(shape).astype(np.float32) for shape in ((4, 8), (8, 3)))
    second[:dead] = 0
    weights = [numpy_helper.from_array(first, "w"), numpy_helper.from_array(second, "v")]
    nodes, sparse, last = [helper.make_node("MatMul", ["x", "w"], ["h"])], [], "h"
    for index in range(SLICES):
        names = [f"{kind}{index}" for kind in ("start", "end", "axis")]
        for name, value in zip(names, (0, 99, 0), strict=True):
            tensor = spelled(name, np.array([value]))
            if form == "attributes":
                nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            else:
                weights.append(tensor)
        nodes += [
            helper.make_node("Slice", [last, *names], [f"s{index}"]),
            helper.make_node("Relu", [f"s{index}"], [f"r{index}"]),
        ]
        last = f"r{index}"
    if form == "sparse":
        bias = np.zeros((40, 8), np.float32)
        bias[7] = np.arange(8)
        places = spelled("bias.at", np.flatnonzero(bias))
        values = numpy_helper.from_array(bias.ravel()[np.flatnonzero(bias)], "bias")
        sparse = [helper.make_sparse_tensor(values, places, [40, 8])]
        weights.append(spelled("row", np.array(7)))
        nodes += [helper.make_node("Gather", ["bias", "row"], ["b"]), helper.make_node("Add", [last, "b"], ["a"])]
        last = "a"
    nodes.append(helper.make_node("MatMul", [last, "v"], ["y"]))
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights, sparse_initializer=sparse)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("form", ["initializers", "attributes", "sparse"])
@pytest.mark.parametrize("dead", [0, 1])
def test_small_integers(form: str, dead: int, tmp_path: Path) -> None:
    model, path, out = network(dead, form), tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    result = sq.minimize(path, round_to=1)
    assert result.model.ByteSize() == result.report.bytes_after <= result.report.bytes_before == path.stat().st_size
    done = CliRunner().invoke(main, ["minimize", str(path), "-o", str(out), "--round-to", "1"])
    assert done.exit_code == 0, done.output
    written = onnx.load(out)
    assert out.stat().st_size <= path.stat().st_size - 4 * 7 * dead
    weights = {tensor.name: tuple(tensor.dims) for tensor in written.graph.initializer}
    assert (weights["w"], weights["v"]) == ((4, 8 - dead), (8 - dead, 3))
    if form != "sparse":
        assert_equal_outputs(model, written)
    if not dead:
        assert written == model


def packed_dims(path: Path) -> bytes:
    """Return a model as a library writes it that packs repeated integers, as proto3 does: shapes take fewer bytes."""
    with open(path, "rb") as file:
        data = file.read()
        (graph,) = [f for f in wire.fields(file, 0, len(data)) if f.number == wire.MODEL_GRAPH]  # type: ignore[arg-type]
        parts = list(wire.fields(file, graph.body, graph.stop))  # type: ignore[arg-type]
        inner = b""
        for part in parts:
            content = data[part.body : part.stop]
            if part.number == wire.GRAPH_INITIALIZER:
                tensor = onnx.TensorProto.FromString(content)
                dims = bytes(tensor.dims)
                tensor.ClearField("dims")
                content = wire.prefix(1, len(dims)) + dims + tensor.SerializeToString()
            inner += wire.prefix(part.number, len(content)) + content
    rest = data[: graph.start] + data[graph.stop :]
    return rest + wire.prefix(wire.MODEL_GRAPH, len(inner)) + inner


@pytest.mark.parametrize("dead", [0, 1, 4])
def test_encoded_shorter_than_protobuf_does(dead: int, tmp_path: Path) -> None:
    """What cannot be written in as few bytes is left: the given file is copied to the byte."""
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    model = network(dead, "initializers")
    for index in range(100):  # shapes of eight axes that nothing reads but a sum that is zero
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1,) * 8, np.float32), f"z{index}"))
    names = [f"z{index}" for index in range(100)]
    model.graph.node.insert(0, helper.make_node("Sum", names, ["zeros"]))
    model.graph.output.append(helper.make_tensor_value_info("zeros", TensorProto.FLOAT, [1] * 8))
    onnx.save(model, path)
    path.write_bytes(packed_dims(path))
    assert onnx.load(path).ByteSize() > path.stat().st_size
    done = CliRunner().invoke(main, ["minimize", str(path), "-o", str(out), "--round-to", "1"])
    assert done.exit_code == 0, done.output
    assert out.stat().st_size <= path.stat().st_size
    assert out.read_bytes() == path.read_bytes()
    for source in (path, path.read_bytes(), path.open("rb")):
        result = sq.minimize(source, verify=False, round_to=1)
        result.save(out)
        assert out.read_bytes() == path.read_bytes()
        assert result.report.bytes_after == result.report.bytes_before == path.stat().st_size
        assert result.model == onnx.load(path)


def test_a_model_in_memory_is_no_longer_than_it_was(tmp_path: Path) -> None:
    """Repeated integers that protobuf packs as varints, in a type that others write as bytes."""
    model = network(0, "initializers")
    model.graph.initializer.append(helper.make_tensor("z", TensorProto.INT64, [40], [1] * 40))
    model.graph.node.insert(0, helper.make_node("Neg", ["z"], ["minus"]))
    model.graph.output.append(helper.make_tensor_value_info("minus", TensorProto.INT64, [40]))
    result = sq.minimize(model, verify=False, round_to=1)
    assert result.save(tmp_path / "out.onnx") <= model.ByteSize()
    assert result.model.ByteSize() <= model.ByteSize()


@pytest.mark.parametrize("dead", [0, 1])
@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_a_data_file_is_as_tight_as_it_was(dead: int, alignment: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = [4, *[301] * 12, 3]
    weights = [random.standard_normal(pair).astype(np.float32) for pair in zip(sizes, sizes[1:], strict=False)]
    weights[6][:, :dead] = 0
    nodes, tensors, data = [], [], b""
    for index, weight in enumerate(weights):
        data += bytes(-len(data) % alignment)
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=weight.shape)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": "a_rather_long_name_of_data", "offset": len(data), "length": weight.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        data += weight.tobytes()
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"h{index}", f"w{index}"], [f"h{index + 1}"]))
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("h0", 4), ("h13", 3))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "a_rather_long_name_of_data").write_bytes(data)
    done = CliRunner().invoke(main, ["minimize", str(path), "-o", str(out), "--round-to", "1", "--no-verify"])
    assert done.exit_code == 0, done.output
    before = path.stat().st_size + len(data)
    after = out.stat().st_size + (tmp_path / "o.onnx.data").stat().st_size
    assert after <= before
    reported = sq.minimize(path, verify=False, round_to=1).report
    assert reported.bytes_before == before
    assert [tuple(t.dims) for t in onnx.load(out).graph.initializer][6:8] == [(301, 301 - dead), (301 - dead, 301)]


def normalized(random: np.random.Generator) -> tuple[onnx.ModelProto, int]:
    """Return a LayerNormalization between two layers, half of its channels and some hidden units dead, and how many."""
    width, hidden = 8, int(random.integers(12, 20))
    channels, units = (random.permutation(size)[: size // 2] for size in (width, hidden))
    stored = {name: random.standard_normal(shape).astype(np.float32) for name, shape in (
        ("w", (5, width)), ("scale", (width,)), ("shift", (width,)), ("up", (width, hidden)), ("down", (hidden, 3))
    )}  # fmt: skip
    stored["w"][:, channels] = 0
    stored["up"][:, units] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["stream"]),
        helper.make_node("LayerNormalization", ["stream", "scale", "shift"], ["normed"]),
        helper.make_node("MatMul", ["normed", "up"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "down"], ["y"]),
    ]
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("x", 5), ("y", 3)))
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), len(units)


@pytest.mark.parametrize("seed", range(3))
def test_what_a_longer_form_costs_keeps_its_own_channels_only(seed: int) -> None:
    """The form of a narrowed norm takes more bytes here than its channels; hidden units leave all the same."""
    model, dead = normalized(np.random.default_rng(seed))
    report = sq.minimize(model, round_to=1)
    shapes = {tensor.name: list(tensor.dims) for tensor in report.model.graph.initializer}
    hidden = model.graph.initializer[3].dims[1]
    assert shapes["up"] == [8, hidden - dead] and shapes["down"] == [hidden - dead, 3]
    assert report.model.ByteSize() < model.ByteSize()
