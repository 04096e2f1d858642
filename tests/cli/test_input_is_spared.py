"""Nothing that a command reads is ever written to: by no option, through no link, under no spelling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.model.files import external_locations
from tests.support.perceptrons import refused, run

Link = Callable[[Path, Path], None]


def symbolic(file: Path, link: Path) -> None:
    link.symlink_to(file)


def hard(file: Path, link: Path) -> None:
    link.hardlink_to(file)


def through_a_folder(file: Path, link: Path) -> None:
    """Make a name whose folder is a link."""
    link.symlink_to(file.parent, target_is_directory=True)


@pytest.fixture
def external(pruned: Path) -> Path:
    """Return the network with its weights in ``w.data``, alone in its folder."""
    folder = pruned.parent / "own"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(onnx.load(pruned), path, save_as_external_data=True, location="w.data", size_threshold=0)
    np.savez(folder / "x.npz", x=np.zeros((1, 4), np.float32))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(model: Path, target: Path) -> Iterator[list[object]]:
    """Yield every command with every option by which it might write to a target."""
    yield ["minimize", model, "-o", target]
    yield ["minimize", model, "-o", model.with_name("out.onnx"), "--json", target]
    yield ["minimize", model, "--json", target]
    yield ["inspect", model, "--json", target]
    yield ["verify", model, model, "--json", target]
    yield ["deploy", model, "--target", "ort", "-o", target]
    yield ["deploy", model, "--target", "ort", "-o", model.parent / "made", "--json", target]
    for option in ("--json", "--csv", "--plot"):
        yield ["bench", model, option, target]


@pytest.mark.parametrize("link", [symbolic, hard, through_a_folder, None])
@pytest.mark.parametrize("name", ["w.data", "net.onnx"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_no_option_reaches_the_input(external: Path, name: str, link: Link | None, force: list[str]) -> None:
    target = external.with_name(name)
    if link is not None:
        alias = external.parent.parent / "alias"
        link(target, alias)
        target = alias / name if link is through_a_folder else alias
    before = contents(external.parent)
    for command in commands(external, target):
        if force and name == "net.onnx" and command[0] == "minimize" and command[-2] == "-o":
            continue  # --force is for that
        refused(run(*command, *force), 2)
        assert contents(external.parent) == before, command


def test_other_spellings_of_a_data_file(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(external.parent.parent)
    for spelling in ("own/w.data", "./own/../own/w.data", str(external.with_name("w.data"))):
        message = refused(run("minimize", "own/net.onnx", "-o", spelling), 2)
        assert message.endswith("is the data file own/w.data of own/net.onnx, which is never replaced; "
                                "choose another output path")  # fmt: skip
    message = refused(run("inspect", "own/net.onnx", "--json", "own/w.data", "--force"), 2)
    assert message == "--json own/w.data would overwrite the data file own/w.data of own/net.onnx; choose another path"


def test_the_default_output_may_be_a_data_file(pruned: Path) -> None:
    folder = pruned.parent / "own"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(onnx.load(pruned), path, save_as_external_data=True, location="net.min.onnx", size_threshold=0)
    before = contents(folder)
    assert "which is never replaced" in refused(run("minimize", path), 2)
    assert contents(folder) == before


def test_a_model_behind_a_link_has_its_data_beside_both(external: Path) -> None:
    other = external.parent.parent / "other"
    other.mkdir()
    link = other / "net.onnx"
    link.symlink_to(external)
    (other / "w.data").write_bytes(external.with_name("w.data").read_bytes())
    for target in (external.with_name("w.data"), other / "w.data"):
        assert "is the data file" in refused(run("minimize", link, "-o", target), 2)


@pytest.mark.parametrize("command", ["minimize", "verify"])
def test_samples_are_input_too(external: Path, command: str) -> None:
    samples = external.with_name("x.npz")
    models = [external] if command == "minimize" else [external, external]
    before = contents(external.parent)
    message = refused(run(command, *models, "--inputs", samples, "--json", samples, "--force"), 2)
    assert message == f"--json {samples} would overwrite the samples {samples}; choose another path"
    assert contents(external.parent) == before
    assert "is the samples" in refused(run("minimize", external, "--inputs", samples, "-o", samples, "--force"), 2)


def test_force_replaces_the_model_and_leaves_its_data(external: Path) -> None:
    data = external.with_name("w.data").read_bytes()
    assert run("minimize", external, "-o", external, "--force").exit_code == 0
    assert external_locations(external) == frozenset()
    assert external.with_name("w.data").read_bytes() == data


def everywhere(names: Iterator[str]) -> onnx.ModelProto:
    """Return a model with a tensor in another file at each place where a tensor can stand."""

    def tensor() -> TensorProto:
        made = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        made.external_data.add(key="location", value=next(names))
        return made

    def sparse() -> onnx.SparseTensorProto:
        return onnx.SparseTensorProto(values=tensor(), indices=tensor(), dims=[1])

    def graph(name: str) -> onnx.GraphProto:
        made = helper.make_graph([], name, [], [], [tensor()])
        made.sparse_initializer.append(sparse())
        return made

    inner = helper.make_node("If", ["c"], ["y"], then_branch=graph("then"), else_branch=graph("else"))
    inner.attribute.add(name="many", type=onnx.AttributeProto.GRAPHS).graphs.append(graph("one"))
    constant = helper.make_node("Constant", [], ["k"], value=tensor())
    constant.attribute.add(name="values", type=onnx.AttributeProto.TENSORS).tensors.append(tensor())
    constant.attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse())
    whole = graph("whole")
    whole.node.extend([inner, constant])
    model = helper.make_model(whole)
    model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["v"], value=tensor()))
    model.training_info.add().initialization.CopyFrom(graph("first"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(5000, np.float32), "inline"))
    return model


def test_data_files_are_found_wherever_a_tensor_can_stand(tmp_path: Path) -> None:
    used: list[str] = []

    def names() -> Iterator[str]:
        while True:
            used.append(f"file{len(used)}.data")
            yield used[-1]

    path = tmp_path / "net.onnx"
    path.write_bytes(everywhere(names()).SerializeToString())
    assert len(used) == 20  # of five graphs three each, of two nodes five
    assert external_locations(path) == set(used)
    path.write_bytes(b"\x0b\x0c" + path.read_bytes())  # an empty group, which protobuf still reads
    assert external_locations(path) == set(used)


def test_deeply_nested_bytes_are_no_recursion(tmp_path: Path) -> None:
    from onnxsqueeze.model import wire

    encoded = b""
    for _ in range(3000):  # an attribute of a node of a graph in an attribute of a node ...
        for number in (wire.GRAPH_NODE, 5, 6):
            encoded = wire.prefix(number, len(encoded)) + encoded
    path = tmp_path / "deep.onnx"
    path.write_bytes(wire.prefix(wire.MODEL_GRAPH, len(encoded)) + encoded)
    assert external_locations(path) == frozenset()
    assert run("minimize", path).exit_code == 3
