"""A data file that another program cuts short, or writes to, while it is read: one line, exit code 3, and no output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsqueeze.processes.mapping import CAN_MAP
from tests.cli.test_hostile_moments import environment
from tests.support.perceptrons import perceptron

pytestmark = pytest.mark.skipif(not CAN_MAP, reason="files are read here, not mapped")

_PROGRAM = """
import importlib, os, sys
moment, how, path = sys.argv[1:4]
module, name = moment.rsplit(".", 1)
owner = importlib.import_module(module)
do, done = getattr(owner, name), []
def meanwhile(*arguments, **named):
    if not done:
        if how == "cut":
            os.truncate(path, 5000)
        else:
            with open(path, "r+b") as file:
                file.seek(100_000)
                file.write(bytes(8))
    done.append(how)
    return do(*arguments, **named)
setattr(owner, name, meanwhile)
sys.argv[1:] = sys.argv[4:]
from onnxsqueeze.__main__ import main
main()
"""
MOMENTS = (
    "onnxsqueeze.pipeline.minimize.analyse",
    "onnxsqueeze.pipeline.search.apply",
    "onnxsqueeze.verification.verifier.call_apart",
    "onnxsqueeze.model.saving._write_data",
)

_LAYERS = ((300, 400), (400, 300), (300, 300))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Return a network with its weights in a data file; half of the units are dead, and behind them a layer stays."""
    random = np.random.default_rng(0)
    first, second, third = (random.standard_normal((size, other)).astype(np.float32) for size, other in _LAYERS)
    second[random.permutation(400)[:200]] = 0
    model = perceptron(first, second)
    model.graph.initializer.append(onnx.numpy_helper.from_array(third, "w3"))
    model.graph.node.append(onnx.helper.make_node("MatMul", ["y", "w3"], ["z"]))
    model.graph.output[0].name = "z"
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    return path


@pytest.mark.parametrize("how", ["cut", "written to"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_data_file_that_changes(moment: str, how: str, network: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "out").mkdir()
    data = network.with_name("net.data")
    command = ["minimize", str(network), "-o", str(folder / "out.onnx"), "--quiet"]
    program = [sys.executable, "-c", _PROGRAM, moment, how, str(data), *command]
    apart = environment(ONNXSQUEEZE_IN_PROCESS="0")
    done = subprocess.run(program, env=apart, capture_output=True, text=True, check=False)
    line = f"onnxsqueeze: error: {data} was changed while it was read; run again once nothing writes to it\n"
    assert (done.returncode, done.stderr) == (3, line)
    assert not list(folder.iterdir())
