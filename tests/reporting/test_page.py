"""The HTML report: one file, true, harmless whatever a model's names are, and it works in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.cli.main import main
from onnxsqueeze.reporting.page.pictures import GONE, MOST_CELLS
from onnxsqueeze.reporting.page.render import readable

RESNET = "models/resnet.onnx"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000",
)  # fmt: skip


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


def test_nothing_is_loaded_from_anywhere() -> None:
    text = page(RESNET)
    assert not re.search(r'(src|href)="(?!#)', text) and "@import" not in text and "url(" not in text
    assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(", text)


def test_the_drawing_has_layers_joins_and_what_lies_between() -> None:
    drawing = data(page(mlp()))["drawing"]
    kinds = [(block["kind"], block["name"], block["before"], block["after"]) for block in drawing["blocks"]]
    assert kinds == [("input", "x", 4, 4), ("layer", "first", 6, 4), ("layer", "second", 2, 2), ("output", "y", 2, 2)]
    lines = [(line["source"], line["target"], line["passing"]) for line in drawing["lines"]]
    assert lines == [(0, 1, []), (1, 2, ["Relu"]), (2, 3, [])]


def test_a_picture_shows_what_is_zero_and_what_was_removed() -> None:
    picture = data(page(mlp()))["drawing"]["blocks"][1]["picture"]
    cells = np.frombuffer(base64.b64decode(picture["cells"]), np.uint8).reshape(picture["rows"], picture["columns"])
    assert cells.shape == (6, 4)
    removed = np.isin(np.arange(6), [1, 4])
    assert ((cells & GONE > 0) == removed[:, None]).all()
    assert ((cells & (GONE - 1) == 0) == removed[:, None]).all()


def test_pictures_of_large_layers_are_small() -> None:
    for block in data(page("models/mlp.onnx"))["drawing"]["blocks"]:
        if block["picture"]:
            assert max(block["picture"]["rows"], block["picture"]["columns"]) <= MOST_CELLS


def test_residual_sums_are_joins() -> None:
    blocks = data(page(RESNET))["drawing"]["blocks"]
    assert sum(block["operator"] == "Add" for block in blocks) >= 4
    assert {block["kind"] for block in blocks} == {"input", "layer", "join", "output"}


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"&amp;'])
def test_names_cannot_do_harm(name: str) -> None:
    text = page(mlp(name))
    assert name not in text
    assert [block["name"] for block in data(text)["drawing"]["blocks"]][1] == name


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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_it_works_in_a_browser(tmp_path: Path) -> None:
    """All blocks are drawn, and a link to a layer shows its details and its picture."""
    target = tmp_path / "report.html"
    target.write_text(page(RESNET), encoding="utf-8")
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={tmp_path}", "--dump-dom", f"{target.as_uri()}#node_conv2d_6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    blocks = data(target.read_text(encoding="utf-8"))["drawing"]["blocks"]
    assert len(re.findall(r'<g class="block ', done.stdout)) == len(blocks)
    details = done.stdout[done.stdout.index('<aside id="details"') : done.stdout.index("</aside>")]
    assert "node_conv2d_6" in details and "<canvas" in details and "2,048 → 960" in details
