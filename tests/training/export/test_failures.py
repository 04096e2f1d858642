"""What cannot be exported is said in one line, and nothing is written; what only the older exporter takes is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import onnxsqueeze as sq
from onnxsqueeze.model import loading
from onnxsqueeze.training.export import export as exporting
from onnxsqueeze.training.export.agreement import disagreement
from onnxsqueeze.training.export.calling import Flat, NodeCall
from onnxsqueeze.training.export.export import export_masked
from tests.training.export.checks import metadata, stored
from tests.training.export.networks import Branching, Containers, ForOlder, Random, Unwritable, mlp

FAILURES: dict[str, tuple[nn.Module, Any, str]] = {
    "shape": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(7, 3)),
        torch.randn(1, 3, 8, 8),
        r"module Sequential does not run on the example inputs \(input \[1, 3, 8, 8\]\) in '1' \(Linear\): "
        r"mat1 and mat2 .*; give inputs that it takes$",
    ),
    "arguments": (
        nn.Linear(4, 4),
        (torch.zeros(1, 4), torch.zeros(1, 4)),
        r"Linear.forward\(input\) does not take the example inputs: too many positional arguments$",
    ),
    "no tensor": (nn.Linear(4, 4), (4,), "^the example inputs hold no tensor; give what"),
    "operator": (
        nn.Sequential(nn.Linear(4, 4), Unwritable()),
        torch.randn(2, 4, 4),
        r"module Sequential does not export in '1' \(Unwritable\): torch cannot write its operator aten\.\w*eig\w* "
        r"to ONNX; replace the operator",
    ),
    "branch": (
        nn.Sequential(nn.Linear(4, 4), Branching()),
        torch.randn(2, 4),
        r"module Sequential does not export in '1' \(Branching\): what it does depends on the values of tensors",
    ),
    "random": (Random(), torch.randn(2, 4), "module Random does not compute the same twice"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_module_that_does_not_export(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module, inputs, message = FAILURES[name]
    with pytest.raises(sq.UsageError, match=message) as caught:
        export_masked(module, inputs, tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_result_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"doubled": 2 * x, "count": 3}

    with pytest.raises(sq.UsageError, match="the module returns a int as count; let it return tensors"):
        export_masked(Counting(), torch.randn(2, 3), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_names": ["a", "b"]}, "input_names must hold 1 names, one for each of the inputs input"),
        ({"output_names": "out"}, "output_names must hold 1 names"),
        ({"output_names": ["input"]}, "none occurs twice"),
        ({"dynamic_shapes": {"x": {0: "batch"}}}, "dynamic_shapes names x, but the inputs are input"),
        ({"dynamic_shapes": [{5: "batch"}]}, "dynamic_shapes: input has 2 axes, and none is 5"),
        ({"dynamic_shapes": [{0: "batch"}]}, "axis 0 of input is 1 in the example inputs"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(sq.UsageError, match=message):
        export_masked(mlp(), torch.randn(1, 8), tmp_path / "x.onnx", **options)


def test_path_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.onnx", "does not exist")):
        with pytest.raises(sq.UsageError, match=message):
            export_masked(Containers(), (), path)  # its missing inputs are not looked at


def test_file_is_as_it_was_when_an_export_fails(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"before")
    with pytest.raises(sq.UsageError):
        export_masked(Random(), torch.randn(2, 4), tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").read_bytes() == b"before"


def test_older_exporter_takes_over_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ForOlder()
    with pytest.warns(UserWarning, match="^written by the older exporter of torch: the module ForOlder does not"):
        path = export_masked(module, torch.randn(1, 4), tmp_path / "x.onnx")
    model = loading.to_proto(loading.load(path))
    arrays = stored(model)
    assert set(arrays) == set(module.state_dict())  # the biases are equal, and stay apart
    np.testing.assert_array_equal(arrays["first.weight"], module.first.weight.detach().numpy())
    assert [value.name for value in model.graph.input] == ["x"]
    assert metadata(model, "tied") == []


def test_older_exporter_is_not_trusted_with_one_of_two_branches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the newer one has not said that the values of tensors decide."""
    monkeypatch.setattr(exporting, "depends_on_values", lambda error: False)
    with pytest.raises(sq.UsageError, match="does not export"):
        export_masked(Branching(), torch.ones(2, 4), tmp_path / "x.onnx")


def test_rounding_that_a_norm_magnifies_is_judged_in_float64(tmp_path: Path) -> None:
    """Of zeros each channel is nearly one constant; a bias that is off by a thousandth is found all the same."""
    torch.manual_seed(0)
    norms = [(nn.Conv2d(inner, 16, 3, padding=1), nn.GroupNorm(16, 16), nn.ReLU()) for inner in (3, 16)]
    last = nn.Linear(16, 10)
    module = nn.Sequential(*norms[0], *norms[1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()
    zeros = torch.zeros(2, 3, 16, 16)
    export_masked(module, zeros, tmp_path / "x.onnx", dynamic_shapes={})
    model = loading.load(tmp_path / "x.onnx")
    flat = Flat(module, NodeCall.of(module, zeros))
    assert disagreement(model, flat, [[zeros]]) == ""
    with torch.no_grad():
        last.bias[3] += 1e-3
    assert disagreement(model, flat, [[zeros]]).startswith("its output output deviates by ")
