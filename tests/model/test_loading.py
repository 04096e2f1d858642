"""Loading: every bad input gives one clear line, and weights are read once, wherever they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze.errors import InvalidModelError, SqueezeError
from onnxsqueeze.model import wire
from onnxsqueeze.model.loading import Initializer, load, to_proto
from onnxsqueeze.model.saving import save
from tests.support.sample_models import WEIGHT, floats, linear_model, separated

PACKAGE_ROOT = Path(onnxsqueeze.__file__).parents[1]
LARGE = np.arange(5000, dtype=np.float32)


def refusal(source: Path | ModelProto, *, check: bool = True) -> str:
    """Return the line with which a model is refused."""
    with pytest.raises(InvalidModelError) as caught:
        load(source, check=check)
    line = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in line
    if isinstance(source, Path):
        assert str(source) in line
    return line


def stored(folder: Path, model: ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.onnx")


def test_impossible_path() -> None:
    with pytest.raises(InvalidModelError, match="cannot be read: embedded null"):
        load("a\0b.onnx")


def test_folder(tmp_path: Path) -> None:
    assert "is a folder; give the path" in refusal(tmp_path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = stored(tmp_path, linear_model())
    monkeypatch.setattr("onnxsqueeze.model.loading.open", refuse, raising=False)
    assert "Permission denied; check the path and its permissions" in refusal(path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    assert "is empty" in refusal(path)


@pytest.mark.parametrize("content", [b"not a model", b"\xff" * 100, b"\x89PNG\r\n\x1a\n", b"{}", b"\x0b\x0c"])
def test_other_content(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert "ONNX model" in refusal(path)


def test_every_truncation(tmp_path: Path) -> None:
    encoded = linear_model(numpy_helper.from_array(LARGE, "large")).SerializeToString()
    path = tmp_path / "cut.onnx"
    lengths = [*range(1, 200), *range(200, len(encoded), 997), len(encoded) - 1]
    for length in lengths:
        path.write_bytes(encoded[:length])
        assert refusal(path)
    path.write_bytes(encoded[: len(encoded) // 2])
    assert "is cut short (the field at byte" in refusal(path)


def test_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pb"
    path.write_bytes(numpy_helper.from_array(WEIGHT).SerializeToString())
    assert "holds no graph" in refusal(path)
    assert "holds no graph" in refusal(ModelProto(ir_version=8))


def without_opset_imports(model: ModelProto) -> None:
    del model.opset_import[:]


def with_an_unknown_operator(model: ModelProto) -> None:
    model.graph.node[0].op_type = "MatMull"


def with_a_domain_not_imported(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def with_an_unknown_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 1000


def with_an_unknown_opset_of_another_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 999))


def with_an_unknown_opset_in_a_function(model: ModelProto) -> None:
    opsets = [helper.make_opsetid("", 1000)]
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], [], opsets))


def with_two_opsets(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))


def with_a_newer_ir_version(model: ModelProto) -> None:
    model.ir_version = onnx.IR_VERSION + 1


def with_a_tensor_written_twice(model: ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


def with_an_initializer_twice(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def with_an_initializer_that_a_node_writes(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "y"))


def with_a_nameless_initializer(model: ModelProto) -> None:
    model.graph.initializer[0].ClearField("name")


def with_an_unknown_input(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def with_too_few_bytes(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = WEIGHT.tobytes()[:-4]


def with_too_many_bytes(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = WEIGHT.tobytes() + b"\0"


def with_a_negative_dimension(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-2, -3]


def with_an_undefined_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.UNDEFINED


def with_a_type_from_the_future(model: ModelProto) -> None:
    encoded = model.graph.initializer[0].SerializeToString()
    changed = encoded.replace(b"\x10\x01", b"\x10\x63")  # data_type 99
    model.graph.initializer[0].ParseFromString(changed)


def with_two_kinds_of_data(model: ModelProto) -> None:
    model.graph.initializer[0].float_data.extend(WEIGHT.ravel())


def with_too_few_floats(model: ModelProto) -> None:
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend([1.0, 2.0])


def with_a_segment(model: ModelProto) -> None:
    model.graph.initializer[0].segment.begin = 1


REFUSED: dict[Callable[[ModelProto], None], str] = {
    without_opset_imports: "must specify opset_import",
    with_an_unknown_operator: "No Op registered for MatMull",
    with_a_domain_not_imported: "No opset import for domain 'com.microsoft'",
    with_an_unknown_opset: "the model uses version 1000 of the operator set ai.onnx",
    with_an_unknown_opset_of_another_domain: "the model uses version 999 of the operator set ai.onnx.ml",
    with_an_unknown_opset_in_a_function: "its function 'F' uses version 1000 of the operator set ai.onnx",
    with_two_opsets: "imports the operator set ai.onnx twice, as version 21 and 11",
    with_a_newer_ir_version: "is higher than the checker's",
    with_a_tensor_written_twice: "'y' has been used as output names multiple times",
    with_an_initializer_twice: "w initializer name is not unique",
    with_an_initializer_that_a_node_writes: "'y' has been used as output names multiple times",
    with_a_nameless_initializer: "one of its initializers has no name",
    with_an_unknown_input: "'nowhere' of node",
    with_too_few_bytes: "initializer 'w' of shape [2, 3] needs 24 bytes but has 20",
    with_too_many_bytes: "initializer 'w' of shape [2, 3] needs 24 bytes but has 25",
    with_a_negative_dimension: "initializer 'w' has a negative dimension in its shape [-2, -3]",
    with_an_undefined_type: "to UNDEFINED is not allowed",
    with_a_type_from_the_future: "99",
    with_two_kinds_of_data: "initializer 'w' is damaged",
    with_too_few_floats: "float_data size (2) is too small",
    with_a_segment: "initializer 'w' has its data in two places",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_refused(spoil: Callable[[ModelProto], None], tmp_path: Path) -> None:
    model = linear_model()
    spoil(model)
    assert REFUSED[spoil] in refusal(stored(tmp_path, model))
    assert REFUSED[spoil] in refusal(model)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear_model().SerializeToString().replace(b"product", b"pr\xf6duct"))
    assert "node 0 has a name that is not UTF-8" in refusal(path)


def test_check_can_be_left_out(tmp_path: Path) -> None:
    model = linear_model()
    with_an_unknown_operator(model)
    assert load(stored(tmp_path, model), check=False).skeleton.graph.node[0].op_type == "MatMull"
    with_an_initializer_twice(model)
    assert "two of its initializers are named 'w'" in refusal(model, check=False)


def test_large_and_odd_tensors_are_read_as_protobuf_reads_them(tmp_path: Path) -> None:
    """Tensors beyond the size from which they bypass protobuf, in each form that it would accept."""
    values = LARGE.tolist()
    raw = numpy_helper.from_array(LARGE, "raw")
    raw.doc_string = "a doc string"
    raw.metadata_props.add(key="k", value="v")
    packed = TensorProto(name="packed", dims=[5000], data_type=TensorProto.FLOAT, float_data=values)
    doubles = TensorProto(name="doubles", dims=[5000], data_type=TensorProto.DOUBLE, double_data=values)
    half = numpy_helper.from_array(LARGE[:2500], "half")
    complexes = TensorProto(name="complexes", dims=[2500], data_type=TensorProto.COMPLEX64, float_data=values)
    integers = TensorProto(name="integers", dims=[5000], data_type=TensorProto.INT64, int64_data=range(5000))
    model = linear_model(raw, packed, doubles, half, complexes, integers)
    # In two runs and one by one; a field number and wire type, then the value.
    run = wire.prefix(TensorProto.FLOAT_DATA_FIELD_NUMBER, 10_000) + LARGE[:2500].tobytes()
    single = bytes([TensorProto.FLOAT_DATA_FIELD_NUMBER << 3 | 5])
    singles = b"".join(single + value.tobytes() for value in LARGE[2500:])
    two_runs = TensorProto(name="odd", dims=[5000], data_type=TensorProto.FLOAT).SerializeToString() + run + singles
    repeated = raw.SerializeToString() + wire.prefix(wire.TENSOR_RAW_DATA, 20_000) + LARGE[::-1].tobytes()
    repeated = repeated.replace(b"raw", b"two", 1)
    tensors = b"".join(wire.prefix(wire.GRAPH_INITIALIZER, len(tensor)) + tensor for tensor in (two_runs, repeated))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString() + wire.prefix(wire.MODEL_GRAPH, len(tensors)) + tensors)

    loaded = load(path)
    assert separated(to_proto(loaded)) == separated(onnx.load(path))
    assert np.array_equal(loaded.initializers["odd"].array, LARGE)
    assert np.array_equal(loaded.initializers["two"].array, LARGE[::-1])
    assert len(loaded.initializers) == 9


def test_graph_in_several_pieces_is_merged(tmp_path: Path) -> None:
    first, second = linear_model(), linear_model(doc_string="later wins")
    for name in ("node", "input", "output"):
        second.graph.ClearField(name)
    second.graph.initializer[0].name = "v"
    path = tmp_path / "model.onnx"
    path.write_bytes(first.SerializeToString() + second.SerializeToString())
    loaded = load(path)
    assert list(loaded.initializers) == ["w", "v"]
    assert loaded.skeleton.doc_string == "later wins"
    assert separated(to_proto(loaded)) == separated(onnx.load(path))


def test_obsolete_groups_are_left_to_protobuf(tmp_path: Path) -> None:
    group = b"\xab\x3f\x08\x07\xac\x3f"  # an unknown field 1013 that is a group: start, a varint, end
    path = tmp_path / "model.onnx"
    path.write_bytes(linear_model().SerializeToString() + group)
    assert to_proto(load(path)).SerializeToString().endswith(group)


def test_weights_are_read_only_and_the_argument_is_not_shared(tmp_path: Path) -> None:
    model = linear_model(numpy_helper.from_array(LARGE, "large"))
    for loaded in (load(model), load(stored(tmp_path, model))):
        for initializer in loaded.initializers.values():
            assert not initializer.array.flags.writeable
            assert initializer.array.flags.aligned
    loaded = load(model)
    model.graph.node[0].name = "changed"
    model.graph.initializer[1].raw_data = np.zeros_like(LARGE).tobytes()
    assert loaded.skeleton.graph.node[0].name == "product"
    assert np.array_equal(loaded.initializers["large"].array, LARGE)


def test_sizes(tmp_path: Path) -> None:
    path = stored(tmp_path, linear_model(numpy_helper.from_array(LARGE, "large")))
    loaded = load(path)
    large = loaded.initializers["large"]
    assert loaded.path == path
    assert loaded.file_bytes == path.stat().st_size
    assert (large.nbytes, large.size, large.shape, large.dtype) == (20_000, 5000, (5000,), np.float32)
    assert load(onnx.load(path)).file_bytes == pytest.approx(path.stat().st_size, abs=100)  # but for some lengths


def test_initializer_with_another_array_keeps_its_metadata() -> None:
    tensor = numpy_helper.from_array(LARGE, "large")
    tensor.doc_string = "a doc string"
    tensor.metadata_props.add(key="k", value="v")
    old = load(linear_model(tensor)).initializers["large"]
    new = old.with_array(np.ones((2, 0), np.float64))
    assert (new.name, new.header.doc_string, new.header.metadata_props[0].value) == ("large", "a doc string", "v")
    assert (new.shape, new.dtype, new.is_numeric) == ((2, 0), np.float64, True)
    assert old.shape == (5000,)


@pytest.mark.parametrize("dtype", [">f4", ">i8", "<f2", "?", "c16"])
def test_initializer_from_any_byte_order_and_layout(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype).T[::2]
    initializer = Initializer.from_array("a", array)
    model = load(linear_model())
    model.initializers["a"] = initializer
    assert np.array_equal(numpy_helper.to_array(to_proto(model).graph.initializer[1]), array)
    assert np.array_equal(initializer.array, array)


def test_initializer_of_strings_and_packed_numbers_is_not_numeric() -> None:
    words = Initializer.from_array("words", np.array(["a", "b"], object))
    nibbles = Initializer.from_array(
        "nibbles", np.array([1, -2, 3]).astype(helper.tensor_dtype_to_np_dtype(TensorProto.INT4))
    )
    assert not words.is_numeric and not nibbles.is_numeric
    assert words.array.tolist() == ["a", "b"]
    assert nibbles.array.astype(int).tolist() == [1, -2, 3]
    assert nibbles.nbytes == 2


def test_model_too_large_for_protobuf_is_not_put_together() -> None:
    model = load(linear_model())
    endless = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**29, 1), (0, 0))
    model.initializers["endless"] = Initializer.from_array("endless", endless)
    with pytest.raises(SqueezeError, match="more than the 2 GB that a ModelProto can hold; save it to a file"):
        to_proto(model)


def test_memory(tmp_path: Path) -> None:
    """Loading and saving hold the weights once: at most half of them again, for buffers and a tensor in passing."""
    layers, width = 12, 2048
    weights = [Initializer.from_array(f"w{index}", np.zeros((width, width), np.float32)) for index in range(layers)]
    nodes = [helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"x{index + 1}"]) for index in range(layers)]
    graph = helper.make_graph(nodes, "deep", [floats("x0", "n", width)], [floats(f"x{layers}", "n", width)])
    model = load(helper.make_model(graph), check=False)
    model.initializers.update((weight.name, weight) for weight in weights)
    size = save(model, tmp_path / "large.onnx")
    script = (
        "import resource, sys; from onnxsqueeze.model.loading import load; from onnxsqueeze.model.saving import save\n"
        "save(load(sys.argv[1]), sys.argv[2])\n"
        "peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(int(peak[0]) * 1024)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "large.onnx"), str(tmp_path / "copy.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE_ROOT)
    assert size > 200e6
    assert int(done.stdout) < 1.5 * size + 100e6  # Python, numpy and onnx alone take 45 MB
