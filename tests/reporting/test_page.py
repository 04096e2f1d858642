"""The HTML report: one file, true, harmless whatever a model's names are, and it works in a browser."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.cli.main import main
from onnxsqueeze.reporting.page.content import Content, FrontPart, FrontPoint, LatencyPart, LatencyRow
from onnxsqueeze.reporting.page.pictures import GONE, MOST_CELLS
from onnxsqueeze.reporting.page.render import render
from onnxsqueeze.reporting.page.words import duration, readable

RESNET = "models/resnet.onnx"


def page(model: ModelProto | str) -> str:
    return sq.minimize(model, verify=False).page("a model")


def data(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    loaded: dict[str, Any] = json.loads(found)
    return loaded


def mlp(name: str = "first") -> ModelProto:
    """Two layers of 4, 6 and 2 channels; two of the six are constant, with weights of zeros."""
    first, second = np.ones((4, 6), np.float32), np.ones((6, 2), np.float32)
    first[:, [1, 4]] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name=name),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", 4), ("y", 2)))
    stored = [numpy_helper.from_array(first, "w"), numpy_helper.from_array(second, "v")]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def attention() -> ModelProto:
    """Two heads of four dims over eight channels, then a layer: x -> q, k, v -> softmax(q k) v -> y."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(8, 8)).astype(np.float32) for name in "qkvo"}
    for name in "qk":
        weights[name][:, [1, 5, 6]] = 0
    stored = [numpy_helper.from_array(value, f"w{name}") for name, value in weights.items()]
    shapes = {"split": [0, 0, 2, 4], "joined": [0, 0, 8]}
    stored += [numpy_helper.from_array(np.array(value), name) for name, value in shapes.items()]
    nodes = []
    for name in "qkv":
        nodes.append(helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}0"]))
        nodes.append(helper.make_node("Reshape", [f"{name}0", "split"], [f"{name}1"]))
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(helper.make_node("Transpose", [f"{name}1"], [name], perm=order))
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["m"]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "joined"], ["j"]),
        helper.make_node("MatMul", ["j", "wo"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", "T", 8]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(length: int, width: int = 16) -> ModelProto:
    """Residual blocks of four nodes each, half of whose hidden units are masked."""
    random = np.random.default_rng(0)
    nodes, stored, x = [], [], "x"
    for at in range(length):
        up = random.normal(size=(width, 2 * width)).astype(np.float32)
        up[:, random.permutation(2 * width)[:width]] = 0
        down = random.normal(size=(2 * width, width)).astype(np.float32) / 50
        stored += [numpy_helper.from_array(up, f"u{at}"), numpy_helper.from_array(down, f"d{at}")]
        nodes += [
            helper.make_node("MatMul", [x, f"u{at}"], [f"h{at}"], name=f"/block.{at}/up"),
            helper.make_node("Relu", [f"h{at}"], [f"r{at}"]),
            helper.make_node("MatMul", [f"r{at}", f"d{at}"], [f"s{at}"], name=f"/block.{at}/down"),
            helper.make_node("Add", [x, f"s{at}"], [f"y{at}"], name=f"/block.{at}/sum"),
        ]
        x = f"y{at}"
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", width]) for n in ("x", x))
    graph = helper.make_graph(nodes, "g", [given], [made], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nothing_is_loaded_from_anywhere() -> None:
    text = page(RESNET)
    assert not re.search(r'(src|href)="(?!#)', text) and "@import" not in text and "url(" not in text
    assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(", text)


def test_the_drawing_has_layers_joins_and_what_lies_between() -> None:
    drawing = data(page(mlp()))["networks"][0]
    kinds = [(block["kind"], block["name"], block["before"], block["after"]) for block in drawing["blocks"]]
    assert kinds == [("input", "x", 4, 4), ("layer", "first", 6, 4), ("layer", "second", 2, 2), ("output", "y", 2, 2)]
    lines = [(line["source"], line["target"], line["passing"]) for line in drawing["lines"]]
    assert lines == [(0, 1, []), (1, 2, ["Relu"]), (2, 3, [])]


def test_a_picture_shows_what_is_zero_and_what_was_removed() -> None:
    picture = data(page(mlp()))["networks"][0]["blocks"][1]["picture"]
    cells = np.frombuffer(base64.b64decode(picture["cells"]), np.uint8).reshape(picture["rows"], picture["columns"])
    assert cells.shape == (6, 4)
    removed = np.isin(np.arange(6), [1, 4])
    assert ((cells & GONE > 0) == removed[:, None]).all()
    assert ((cells & (GONE - 1) == 0) == removed[:, None]).all()


def test_pictures_of_large_layers_are_small() -> None:
    for block in data(page("models/mlp.onnx"))["networks"][0]["blocks"]:
        if "picture" in block:
            assert max(block["picture"]["rows"], block["picture"]["columns"]) <= MOST_CELLS


def test_residual_sums_are_joins() -> None:
    blocks = data(page(RESNET))["networks"][0]["blocks"]
    assert sum(block["operator"] == "Add" for block in blocks) >= 4
    assert {block["kind"] for block in blocks} == {"input", "layer", "join", "output"}


def test_streams_are_found_with_what_left_them() -> None:
    """The last stage of the residual network has 128 channels, of which a quarter was masked in every writer."""
    network = data(page(RESNET))["networks"][0]
    (stream,) = network["streams"]
    assert (stream["before"], stream["after"], len(stream["sums"])) == (128, 96, 3)
    assert {network["blocks"][place]["operator"] for place in stream["sums"]} == {"Add"}
    assert (
        sum(line["stream"] == 0 and network["blocks"][line["target"]]["kind"] == "layer" for line in network["lines"])
        == stream["readers"]
    )


def test_heads_are_shown_where_they_are_multiplied() -> None:
    """Two heads of four dims; of the first head's queries and keys one dim is masked, of the second's two."""
    network = data(page(attention()))["networks"][0]
    found = [block["heads"] for block in network["blocks"] if "heads" in block]
    assert found == [[2, 2, 4, 3], [2, 2, 4, 4]]


def test_sizes_are_no_data() -> None:
    """A reshape whose shape is computed from the input: no line runs from the input to it."""
    model = mlp()
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Reshape", ["y", "s0"], ["z"], name="back")]
    nodes.insert(1, helper.make_node("Slice", ["s", "zero", "one"], ["rows"]))
    nodes.insert(2, helper.make_node("Concat", ["rows", "rest"], ["s0"], axis=0))
    model.graph.node.extend(nodes)
    values = {"zero": [0], "one": [1], "rest": [2]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(each), name) for name, each in values.items())
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2]))
    network = data(page(model))["networks"][0]
    assert [(line["source"], line["target"]) for line in network["lines"]] == [(0, 1), (1, 2), (2, 3)]


def test_a_strip_says_what_is_dead_and_constant() -> None:
    picture = data(page(mlp()))["networks"][0]["blocks"][1]["picture"]
    assert picture["states"] == "lcllcl"


def test_a_large_network_is_a_small_page() -> None:
    """As the issue asks: 2,000 nodes, less than 5 MB."""
    text = page(chain(500))
    assert len(text.encode()) < 5_000_000
    assert len(data(text)["networks"][0]["blocks"]) == 1502


def test_advice_for_a_dense_model() -> None:
    text = page("models/dense.onnx")
    assert "this model is dense" in text and "What to do next" in text
    assert "What to do next" not in page(RESNET)


def test_several_models_are_one_page(tmp_path: Path) -> None:
    target = tmp_path / "all.html"
    result = CliRunner().invoke(main, ["inspect", RESNET, "models/mlp.onnx", "--quiet", "--report", str(target)])
    assert result.exit_code == 0, result.output
    text = target.read_text(encoding="utf-8")
    assert len(data(text)["networks"]) == 2 and "<h1>2 models</h1>" in text


def test_a_front_says_what_each_point_takes() -> None:
    points = [
        FrontPoint("big", 2.0, 0.99, front=True, taken=[("conv", "channel", 8, 4)]),
        FrontPoint("small", 4.0, 0.95, chosen=True),
    ]
    front = FrontPart(points, "times", "accuracy", dense=1.0)
    text = render(Content("a squeeze", "it is smaller", "command", front=front))
    assert data(text)["front"]["points"][0]["taken"] == [{"name": "conv", "kind": "channel", "before": 8, "after": 4}]
    assert data(text)["networks"] == []


def test_latencies_have_their_intervals() -> None:
    rows = [LatencyRow("a", 2e-3), LatencyRow("b", 1e-3, 0.5, 0.45, 0.6), LatencyRow("c", None, problem="no such op")]
    text = render(Content("a bench", "", "command", latency=LatencyPart([("a runtime", rows)], ())))
    assert "0.500 (0.450 to 0.600)" in text and "2 ms" in text and "no such op" in text
    assert "left: 45.0%; width: 15.0%" in text.replace("14.999999999999996", "15.0")


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"&amp;'])
def test_names_cannot_do_harm(name: str) -> None:
    text = page(mlp(name))
    assert name not in text
    assert [block["name"] for block in data(text)["networks"][0]["blocks"]][1] == name


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [
        (0, "", "0"),
        (999, "", "999"),
        (1000, "", "1 k"),
        (63400, "", "63.4 k"),
        (748_000, "B", "748 kB"),
        (7e9, "", "7 G"),
    ],
)
def test_numbers_that_people_read(count: float, unit: str, text: str) -> None:
    assert readable(count, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (1.25e-3, "1.25 ms"), (3e-6, "3 µs"), (2.5, "2.5 s"), (90.0, "1.5 min")]
)
def test_times_that_people_read(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_commands_write_it(tmp_path: Path) -> None:
    for command in (["minimize", RESNET, "-o", str(tmp_path / "o.onnx"), "--no-verify"], ["inspect", RESNET]):
        target = tmp_path / f"{command[0]}.html"
        result = CliRunner().invoke(main, [*command, "--quiet", "--report", str(target)])
        assert result.exit_code == 0, result.output
        assert "resnet.onnx" in target.read_text(encoding="utf-8")


def test_the_model_is_not_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(mlp().SerializeToString())
    result = CliRunner().invoke(main, ["inspect", str(model), "--report", str(model)])
    assert result.exit_code == 2 and "would overwrite the model" in result.output
    assert CliRunner().invoke(main, ["inspect", str(model), "--open"]).exit_code == 2
