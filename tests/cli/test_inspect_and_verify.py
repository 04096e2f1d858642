"""What `inspect` and `verify` print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.perceptrons import perceptron, refused, run, saved, weights


def test_inspect_says_what_the_mask_is_worth_and_writes_nothing(pruned: Path) -> None:
    result = run("inspect", pruned)
    assert result.exit_code == 0
    assert re.search(
        r"layer +operator +kept +zeros +channels +dead +constant +removable +weights +MACs\n", result.stdout
    )
    assert re.search(r"first +Gemm +████······ +25\.0 % +8 +3 +2 +5 +40 -> 15 +32 -> 12\n", result.stdout)
    assert list(pruned.parent.iterdir()) == [pruned]


def test_inspect_gives_the_reason_for_what_stays(pruned: Path, dense: Path) -> None:
    assert "nothing can go: every channel is needed: no weight is zero\n" in run("inspect", dense).stdout
    result = run("inspect", pruned, "--keep", "hidden", "--verbose")
    assert re.search(r"kept on request: hidden +first +1 +5\n", result.stdout)  # three of them dead, two constant
    assert re.search(r"first +kept on request: hidden +first +5\n", result.stdout)
    assert re.search(r"first +hidden +Gemm ", result.stdout)


def test_inspect_as_json(pruned: Path) -> None:
    report = json.loads(run("inspect", pruned, "--json", "-").stdout)
    assert report["input"] == str(pruned)
    assert [layer["output"] for layer in report["layers"]] == ["hidden", "y"]
    assert [layer["sparsity"] for layer in report["layers"]] == [0.25, 0.375]


def test_macs_are_counted_at_the_sizes_given(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["y"], name="conv")],
        "picture",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, None, None])],
        [numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = saved(model, tmp_path / "picture.onnx")
    report = json.loads(run("inspect", path, "--dim", "height=12", "--dim", "width=7", "--json", "-").stdout)
    assert report["sizes"] == {"height": 12, "width": 7}
    assert report["macs_before"] == 2 * 3 * 9 * 10 * 5
    assert "MACs for one sample at: height=64, width=64\n" in run("inspect", path).stdout


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "a\x1b[2J\nb"
    path = saved(perceptron(*weights(), hidden=evil, node=evil), tmp_path / "evil.onnx")
    output = run("inspect", path, "--verbose").stdout
    assert r"a\x1b[2J\nb" in output
    assert "\x1b" not in output


def test_verify_equivalent_models(pruned: Path) -> None:
    run("minimize", pruned, "--no-verify")
    result = run("verify", pruned, pruned.with_name("net.min.onnx"))
    assert result.exit_code == 0
    assert result.stdout.startswith("equivalent\nlargest deviation: ")
    assert re.search(r"\(allowed \S+; \d+ runs\)\n", result.stdout)
    assert "sizes: batch=1; batch=" in result.stdout


def test_verify_other_models(pruned: Path, dense: Path) -> None:
    result = run("verify", pruned, dense, "--verbose")
    message = refused(result, 4)
    assert message.startswith(f"{dense} is not equivalent to {pruned}: output 'y'")
    assert result.stdout.startswith("not equivalent\n")
    assert "first deviating layer: first (Gemm)" in result.stdout
    assert re.search(r"output +deviation +allowed +scale +rounding\n", result.stdout)


def test_verify_other_signatures(pruned: Path) -> None:
    other = saved(perceptron(*(array[:, :3] for array in weights()[:1]), weights()[1][:3]), pruned.with_name("o.onnx"))
    assert run("verify", pruned, other).exit_code == 4
    model = onnx.load(pruned)
    model.graph.output[0].name = model.graph.node[2].output[0] = "z"
    renamed = saved(model, pruned.with_name("renamed.onnx"))
    result = run("verify", pruned, renamed, "--json", "-")
    refused(result, 4)
    assert json.loads(result.stdout)["deviation"] is None


def test_own_samples_and_sizes_are_run(pruned: Path) -> None:
    samples = pruned.with_name("samples.npz")
    np.savez(samples, x=np.ones((3, 4), np.float32))
    plain = json.loads(run("verify", pruned, pruned, "--dim", "batch=7", "--json", "-").stdout)
    more = json.loads(run("verify", pruned, pruned, "--dim", "batch=7", "--inputs", samples, "--json", "-").stdout)
    assert more["runs"] > plain["runs"]
    shaped = run("verify", pruned, pruned, "--input-shape", "x:7,4", "--samples", "1", "--json", "-")
    assert json.loads(shaped.stdout)["runs"] < plain["runs"]
