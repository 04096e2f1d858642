"""External data: read from the model's folder and nowhere else, written where protobuf cannot hold the weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxsqueeze.errors import InvalidModelError, SqueezeError
from onnxsqueeze.model import saving
from onnxsqueeze.model.loading import Initializer, load
from onnxsqueeze.model.saving import save
from onnxsqueeze.verification import verify
from tests.support.sample_models import WEIGHT, linear_model, separated

LARGE = np.arange(3000, dtype=np.float32)


def external(tensor: TensorProto, location: str, **entries: object) -> TensorProto:
    """Move a tensor's data into another file, in words only."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model_in(folder: Path, location: str = "weights.bin", **entries: object) -> Path:
    """Write a model whose only weight is external; the data file is not written."""
    model = linear_model()
    external(model.graph.initializer[0], location, **entries)
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_external_weights_become_ordinary_ones(tmp_path: Path) -> None:
    path = model_in(tmp_path, offset=8, length=24)
    (tmp_path / "weights.bin").write_bytes(b"8 bytes." + WEIGHT.tobytes() + b"more")
    model = load(path)
    assert model.file_bytes == path.stat().st_size + 24
    save(model, tmp_path / "copy.onnx")
    assert separated(onnx.load(tmp_path / "copy.onnx")) == separated(linear_model())


def test_without_offset_and_length_the_whole_file_is_meant(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    assert np.array_equal(load(path).initializers["w"].array, WEIGHT)


def test_what_onnx_writes_is_read(tmp_path: Path) -> None:
    """Several tensors in one file, in subgraphs and attributes too."""
    value = numpy_helper.from_array(LARGE, "value")
    inner = helper.make_node("Constant", [], ["inner"], value=value)
    branch = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info("inner", 1, [3000])], [value])
    branch.initializer[0].name = "unused"
    choice = helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch)
    flag, large = numpy_helper.from_array(np.array(True), "flag"), numpy_helper.from_array(LARGE, "large")
    original = linear_model(flag, large, nodes=(helper.make_node("Constant", [], ["c"], value=value), choice))
    written = ModelProto()
    written.CopyFrom(original)
    onnx.save(
        written,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        convert_attribute=True,
        size_threshold=0,
    )
    assert (tmp_path / "m.data").stat().st_size >= 6 * LARGE.nbytes
    save(load(tmp_path / "m.onnx"), tmp_path / "copy.onnx")
    (tmp_path / "m.data").unlink()
    assert separated(onnx.load(tmp_path / "copy.onnx")) == separated(original)
    onnx.checker.check_model(tmp_path / "copy.onnx", full_check=True)


def test_missing_data_file(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    assert f"tensor 'w': its data file {tmp_path / 'weights.bin'} does not exist; put the data file" in refusal(path)


def test_data_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").mkdir()
    assert "is not a regular file" in refusal(model_in(tmp_path))


def test_data_file_without_a_name(tmp_path: Path) -> None:
    assert "does not say which file has its data" in refusal(model_in(tmp_path, location=""))


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../../weights.bin", "{folder}/weights.bin"])
def test_location_outside_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    path = model_in(tmp_path / "models", location=location.format(folder=tmp_path))
    assert "lies outside the model's folder" in refusal(path)


def test_absolute_location_inside_the_folder_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    assert "lies outside the model's folder" in refusal(model_in(tmp_path, location=str(tmp_path / "weights.bin")))


def test_a_link_that_lies_in_the_folder(tmp_path: Path) -> None:
    """The cache of a model hub: snapshots/REVISION holds links to ../../blobs."""
    for folder in ("blobs", "snapshots"):
        (tmp_path / folder).mkdir()
    path = model_in(tmp_path / "snapshots" / "1")
    path.rename(tmp_path / "blobs" / "a")
    path.symlink_to("../../blobs/a")
    (tmp_path / "blobs" / "b").write_bytes(WEIGHT.tobytes())
    link = path.with_name("weights.bin")
    link.symlink_to("../../blobs/b")
    assert np.array_equal(load(path).initializers["w"].array, WEIGHT)
    report = verify(path, path)
    assert report.passed, report.reason  # onnxruntime itself follows no such link
    link.unlink()
    link.symlink_to("../../blobs")
    assert "is not a regular file" in refusal(path)
    link.unlink()
    link.symlink_to("../../blobs/missing")
    assert "does not exist" in refusal(path)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    """No folder on the way may be one, nor may the name lead to a link elsewhere."""
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "link.bin").symlink_to("weights.bin")
    (tmp_path / "models" / "below").mkdir(parents=True)
    (tmp_path / "models" / "up").symlink_to(tmp_path)
    for location in ("up/weights.bin", "up/link.bin", "../link.bin", "below/../../link.bin"):
        assert "lies outside the model's folder" in refusal(model_in(tmp_path / "models", location=location))


def test_link_within_the_folder_and_a_folder_that_is_a_link(tmp_path: Path) -> None:
    path = model_in(tmp_path / "models")
    (tmp_path / "models" / "real.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "models" / "weights.bin").symlink_to("real.bin")
    (tmp_path / "linked").symlink_to(path.parent)
    for known_as in (path, tmp_path / "linked" / "model.onnx"):
        assert np.array_equal(load(known_as).initializers["w"].array, WEIGHT)


def test_relative_path_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_in(tmp_path)
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(load("model.onnx").initializers["w"].array, WEIGHT)


@pytest.mark.parametrize("entries", [{"length": 24}, {"offset": 10**15}, {"offset": 4, "length": 24}], ids=str)
def test_data_file_that_is_too_short(entries: dict[str, int], tmp_path: Path) -> None:
    path = model_in(tmp_path, **entries)
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes()[:-1])
    assert "which has only 23; copy the whole data file again" in refusal(path)


def test_data_that_does_not_fill_the_shape(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes()[:-1])
    assert "initializer 'w' of shape [2, 3] needs 24 bytes but has 23" in refusal(path)


@pytest.mark.parametrize(
    "entries", [{"offset": -1}, {"length": "many"}, {"length": "9" * 5000}], ids=lambda e: str(e)[:20]
)
def test_impossible_numbers(entries: dict[str, object], tmp_path: Path) -> None:
    path = model_in(tmp_path, **entries)
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    assert "of its external data is" in refusal(path)


def test_data_in_both_places(tmp_path: Path) -> None:
    model = linear_model()
    external(model.graph.initializer[0], "weights.bin").raw_data = WEIGHT.tobytes()
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    assert "initializer 'w' has its data in two places" in refusal(tmp_path / "model.onnx")


def test_model_in_memory_does_not_locate_its_data(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    with pytest.raises(InvalidModelError, match="which a model in memory does not locate; give the path"):
        load(onnx.load(path, load_external_data=False))


@pytest.fixture
def large_model(monkeypatch: pytest.MonkeyPatch) -> ModelProto:
    """A model with small, large, packed and string weights that is over the limit of protobuf, for this test 20 kB."""
    monkeypatch.setattr(saving, "MAX_PROTO_BYTES", 20_000)
    nibbles = Initializer.from_array("nibbles", np.ones(4001).astype(helper.tensor_dtype_to_np_dtype(TensorProto.INT4)))
    tensors = [numpy_helper.from_array(LARGE + index, f"large{index}") for index in range(3)]
    packed = TensorProto()
    packed.CopyFrom(nibbles.header)
    packed.raw_data = bytes(nibbles.raw if nibbles.raw is not None else b"")
    tensors[1].metadata_props.add(key="k", value="v")
    return linear_model(*tensors, packed, helper.make_tensor("words", TensorProto.STRING, [1], ["a"]))


def with_data_inside(path: Path) -> ModelProto:
    """Read a model with onnx, which marks what was external as being at the default location."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
    return model


def test_model_over_the_limit_gets_a_data_file(large_model: ModelProto, tmp_path: Path) -> None:
    written = save(load(large_model), tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert written == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert written > 20_000
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert separated(with_data_inside(tmp_path / "m.onnx")) == separated(large_model)
    tensors = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    offsets = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "offset"}
    assert offsets == {"0", "12288", "24576", "36864"}  # multiples of a page
    assert load(tmp_path / "m.onnx").initializers["large2"].array[1] == 3


def test_data_file_of_another_model_is_not_overwritten(large_model: ModelProto, tmp_path: Path) -> None:
    for _ in range(3):
        save(load(large_model), tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.1.data", "m.onnx.2.data", "m.onnx.data"]
    assert separated(with_data_inside(tmp_path / "m.onnx")) == separated(large_model)


def failing_after(count: int, function: Callable[..., None]) -> Callable[..., None]:
    calls = 0

    def wrapper(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls > count:
            raise OSError(28, "No space left on device")
        function(*arguments)

    return wrapper


@pytest.mark.parametrize("good_calls", [0, 1])
def test_neither_file_stays_when_one_fails(
    good_calls: int, large_model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_text("old")
    monkeypatch.setattr(os, "fsync", failing_after(2 * good_calls, os.fsync))  # a file's and its folder's
    with pytest.raises(SqueezeError, match="No space left on device"):
        save(load(large_model), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "old"


def test_model_that_is_too_large_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "MAX_PROTO_BYTES", 5000)
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(LARGE))
    with pytest.raises(SqueezeError, match="without its weights the model still takes 12"):
        save(load(linear_model(nodes=(constant,))), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []
